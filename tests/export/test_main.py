"""Exit codes of ``python -m export``, and that nothing is left of an export that failed."""

import shutil
from pathlib import Path
from typing import NoReturn

import pytest
import torch

from export import __main__ as command
from export.models import export_torchscript
from tests.export.conftest import save_directions
from training.networks import Generator, new_generator

Captured = pytest.CaptureFixture[str]


def test_a_wrong_file_exits_2_and_says_what_it_is(tmp_path: Path, capsys: Captured) -> None:
    torch.jit.save(torch.jit.script(torch.nn.ReLU()), tmp_path / "script.pt")
    code = command.main(["--weights", str(tmp_path / "script.pt"), "--out", str(tmp_path)])
    assert code == 2
    assert "a TorchScript file" in capsys.readouterr().err
    assert not (tmp_path / "dcgan.mar").exists()


def test_a_file_of_another_network_exits_3(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    def wrong(generator: Generator, path: Path) -> None:
        export_torchscript(new_generator(generator.nz, 4, 3, 32).eval(), path)

    monkeypatch.setattr(command, "export_torchscript", wrong)
    assert command.main(["--weights", str(weights), "--out", str(tmp_path / "out")]) == 3
    out, err = capsys.readouterr()
    assert "verification failed: torchscript, batch 1: differs from eager by up to" in err
    assert out == ""
    assert not (tmp_path / "out").exists()


def test_ctrl_c_exits_130_and_leaves_nothing(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> NoReturn:
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "export_torchscript", interrupted)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    assert command.main(["--weights", str(weights), "--out", str(tmp_path / "out")]) == 130
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("flags", "words"),
    [("--workers 0", "--workers 0 is not allowed: at least 1"),
     ("--model-version ../1", "version '../1' is not allowed: 1 to 32"),
     (f"--model-version {'v' * 33}", "is not allowed: 1 to 32"),
     ("--out {}/file", "file: Not a directory; give another"),
     ("--out {}/file/new", "--out {}/file/new cannot be written to: {}/file: Not"),
     ("--out /proc/new", "--out /proc/new cannot be written to: /proc: "),
     ("--directions {}/hat", "/hat does not exist"),
     ("--directions {}/file", "/file is no directions.safetensors"),
     ("--weights {}", "{} is a folder; give the generator.safetensors in it")],
)  # fmt: skip
def test_what_cannot_be_done_is_told_first_and_exits_2(
    weights: Path,
    tmp_path: Path,
    flags: str,
    words: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Captured,
) -> None:
    monkeypatch.delattr(command, "fold_batchnorm")  # no work has begun
    (tmp_path / "file").touch()
    arguments = ["--weights", weights, "--out", tmp_path, *flags.format(tmp_path).split()]
    assert command.main([str(word) for word in arguments]) == 2
    assert words.format(tmp_path, tmp_path) in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_directions_beside_the_weights_are_packed_if_they_are_theirs(
    weights: Path, tmp_path: Path, capsys: Captured
) -> None:
    copied = shutil.copy(weights, tmp_path / "generator.safetensors")
    auto = command.ExportConfig(copied)
    assert command._directions(auto, 6) == b""
    beside = save_directions(tmp_path / "directions.safetensors", weights)
    assert b"glasses" in command._directions(auto, 6)
    assert command._directions(command.ExportConfig(copied, directions="none"), 6) == b""
    save_directions(beside, weights, weights_sha256="0")
    assert command._directions(auto, 6) == b""
    assert "warning: " in (err := capsys.readouterr().err)
    assert "none are packed" in err
    with pytest.raises(ValueError, match="of other weights"):
        command._directions(command.ExportConfig(copied, directions=beside), 6)
