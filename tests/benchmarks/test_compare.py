"""What ``python -m benchmarks.compare serving`` takes."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
import yaml

from benchmarks import servers
from benchmarks.compare import ServingConfig, main
from benchmarks.peers import launch


def test_the_usual_work_and_a_part_of_it() -> None:
    assert [len(ServingConfig(network=name).works()) for name in ("real", "none")] == [7, 6]
    part = [work.name for work in ServingConfig(work=("grid",), connections=(1, 4)).works()]
    assert part == ["64-image grid, 1 connection", "64-image grid, 4 connections"]


def test_which_peers_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "is_installed", lambda name: name == "triton")
    assert ServingConfig().named_peers() == []
    assert ServingConfig(peers=("all",)).named_peers() == list(launch.PEERS)
    assert ServingConfig(peers=("installed",)).named_peers() == ["triton"]
    assert ServingConfig(peers=("installed", "bentoml")).named_peers() == ["bentoml", "triton"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--rounds", "0"], "rounds: seen 0; allowed is 1 to 100"),
        (["--seconds", "nan"], "seconds: seen nan; allowed is 0.1 to 600"),
        (["--connections", "8", "0"], "connections: seen 0; allowed is 1 to 1000"),
        (["--precision", "float8"], "precision is 'float8'"),
        (["--out", "/tmp"], "out: seen /tmp, a folder"),
        (["--network", "none", "--peers", "all"], "peers: seen all; without the network"),
    ],
)
def test_bad_usage(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2  # serving is what is compared where no other word says so
    assert said in capsys.readouterr().err


def test_an_unknown_peer_is_bad_usage() -> None:
    with pytest.raises(SystemExit) as ended:
        main(["serving", "--peers", "flask"])
    assert ended.value.code == 2


def test_a_precision_changes_the_handler_block_of_a_copy_alone(tmp_path: Path) -> None:
    original = servers.archive(tmp_path / "none", {})
    changed = servers.archive(tmp_path, {"precision": "bfloat16"})
    assert original == servers.STORE / "dcgan.mar"
    with zipfile.ZipFile(original) as before, zipfile.ZipFile(changed) as after:
        assert before.namelist() == after.namelist()
        differing = [name for name in before.namelist() if before.read(name) != after.read(name)]
        assert differing == [servers.CONFIG]
        was, now = (yaml.safe_load(packed.read(servers.CONFIG)) for packed in (before, after))
    assert now["handler"].pop("precision") == "bfloat16"
    assert was["handler"].pop("precision") != "bfloat16"
    assert was == now
