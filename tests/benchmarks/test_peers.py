"""The other servers: their batcher, environments, start and end."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from benchmarks.engine import json_body
from benchmarks.peers import launch
from benchmarks.peers.batcher import MicroBatcher
from benchmarks.peers.launch import PEERS, Peer, PeerError, requirements, triton_body
from benchmarks.servers import Running


async def batched(batcher: MicroBatcher[int, str], items: range) -> list[str | BaseException]:
    serving = asyncio.create_task(batcher.run())
    results = await asyncio.gather(
        *(batcher.submit(item) for item in items), return_exceptions=True
    )
    serving.cancel()
    return results


def test_each_gets_its_own_result_whatever_shares_its_batch() -> None:
    sizes = []

    def work(items: list[int]) -> list[str]:
        sizes.append(len(items))
        return [f"for {item}" for item in items]

    results = asyncio.run(batched(MicroBatcher(work, 32, 0.05), range(100)))
    assert results == [f"for {item}" for item in range(100)]
    assert sizes == [32, 32, 32, 4]


def test_a_failure_is_told_to_its_batch_and_to_no_other() -> None:
    def work(items: list[int]) -> list[str]:
        if 5 in items:
            raise ValueError("five")
        return [str(item) for item in items]

    results = asyncio.run(batched(MicroBatcher(work, 4, 0.05), range(12)))
    assert [str(result) for result in results[4:8]] == ["five"] * 4
    assert all(isinstance(result, ValueError) for result in results[4:8])
    assert results[:4] + results[8:] == ["0", "1", "2", "3", "8", "9", "10", "11"]


def test_a_client_that_has_gone_harms_nobody() -> None:
    async def scenario() -> list[str]:
        batcher: MicroBatcher[int, str] = MicroBatcher(lambda items: list(map(str, items)), 4, 0.05)
        serving = asyncio.create_task(batcher.run())
        gone, stays = (asyncio.create_task(batcher.submit(item)) for item in (1, 2))
        await asyncio.sleep(0)
        gone.cancel()
        results = [await stays, await batcher.submit(3)]
        serving.cancel()
        return results

    assert asyncio.run(scenario()) == ["2", "3"]


def test_what_a_request_says() -> None:
    assert json.loads(json_body(7, 64)) == {"seed": 7, "num_images": 64}
    inputs = json.loads(triton_body(7, 64))["inputs"]
    assert {part["name"]: part["data"] for part in inputs} == {"seed": [7], "num_images": [64]}


@pytest.mark.parametrize("name", PEERS)
def test_pins_are_exact_and_leave_torch_to_the_project(name: str) -> None:
    lines = [
        line
        for line in requirements(name).read_text(encoding="utf-8").splitlines()
        if line and not line.startswith("#")
    ]
    assert lines
    assert [line for line in lines if line.count("==") != 1] == []
    assert {line.split("==")[0] for line in lines}.isdisjoint({"torch", "torchvision", "pillow"})


@pytest.fixture
def own_folders(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Environments and pins of this test alone."""
    monkeypatch.setattr(launch, "home", lambda name: tmp_path / name)
    monkeypatch.setattr(launch, "requirements", lambda name: tmp_path / f"{name}.txt")
    return tmp_path


def test_an_environment_sees_the_torch_of_this_one(own_folders: Path) -> None:
    pins = own_folders / "fastapi.txt"
    pins.write_text("--no-index\n")
    assert not launch.is_installed("fastapi")
    launch.install("fastapi")
    assert launch.is_installed("fastapi")
    command = [launch.home("fastapi") / "bin/python", "-c", "import torch; print(torch)"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    import torch

    assert str(torch.__file__) in said
    pins.write_text("--no-index\n# other pins\n")
    assert not launch.is_installed("fastapi")


def test_what_pip_says_is_the_reason(own_folders: Path) -> None:
    (own_folders / "fastapi.txt").write_text("--no-index\nno-such-package==1.0\n")
    with pytest.raises(PeerError, match=r"No matching distribution.*no-such-package==1\.0"):
        launch.install("fastapi")
    assert not launch.is_installed("fastapi")


@pytest.fixture
def planted(monkeypatch: pytest.MonkeyPatch, own_folders: Path) -> Path:
    """A peer whose program is what a test writes into ``program.py``."""
    program = own_folders / "program.py"
    peer = Peer("Planted", f"{sys.executable} {program} {{port}}")
    monkeypatch.setitem(PEERS, "planted", peer)
    monkeypatch.setattr(launch, "is_installed", lambda _: True)
    return program


def has_ended(pid: int) -> bool:
    """A killed process needs a moment, and stays a zombie where nobody asks for its end."""
    try:
        process = psutil.Process(pid)
        process.wait(10)
    except psutil.NoSuchProcess:
        return True
    except psutil.TimeoutExpired:
        return process.status() == psutil.STATUS_ZOMBIE
    return True


ENDS_AT_ONCE = "signal.signal(signal.SIGTERM, lambda *_: sys.exit())"


@pytest.mark.parametrize(
    ("does", "timeout_s", "said"),
    [
        ("sys.exit('no such model')", 30, r"ended \(1\)\n  no such model"),
        ("pass", 30, r"ended \(0\)"),
        (f"{ENDS_AT_ONCE}; print('still loading', flush=True); time.sleep(600)", 3,
         "gave no picture within 3 s\n  still loading"),
    ],
)  # fmt: skip
def test_one_that_is_never_ready_says_why_and_leaves_nothing_that_it_started(
    planted: Path, does: str, timeout_s: float, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launch, "_GRACE_S", 0.5)
    child = planted.parent / "child.pid"
    planted.write_text(
        "import pathlib, signal, subprocess, sys, time\n"
        "child = subprocess.Popen(['sleep', '600'])\n"
        f"pathlib.Path({str(child)!r}).write_text(str(child.pid))\n{does}\n"
    )
    started = launch.running("planted", planted.parent, planted.parent / "x.pt", timeout_s)
    with pytest.raises(PeerError, match=said), started:
        pytest.fail("it is not ready")
    assert has_ended(int(child.read_text()))


def test_without_an_environment_it_says_how_to_make_one(tmp_path: Path, own_folders: Path) -> None:
    (own_folders / "triton.txt").write_text("")
    with (
        pytest.raises(PeerError, match="make bench-peers"),
        launch.running("triton", tmp_path, tmp_path / "generator.pt"),
    ):
        pytest.fail("it has no environment")


def test_a_server_held_still_costs_nothing() -> None:
    busy = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'while True: pass'])"
    process = subprocess.Popen([sys.executable, "-c", busy], start_new_session=True)
    server = Running("http://127.0.0.1", psutil.Process(process.pid), 0.0)

    def cpu_s_grows() -> bool:
        before, deadline = server.cpu_s(), time.monotonic() + 20
        while time.monotonic() < deadline:
            if server.cpu_s() > before + 0.05:
                return True
            time.sleep(0.05)
        return False

    try:
        assert cpu_s_grows()  # of the child
        server.pause()
        time.sleep(0.1)
        before = server.cpu_s()
        time.sleep(0.5)
        assert server.cpu_s() == before
        memory = server.memory()
        assert 1 < memory["worker_peak_mb"] < 200
        assert 1 < memory["private_mb"] < 200
        server.resume()
        assert cpu_s_grows()
    finally:
        server.resume()
        for member in [*server.process.children(recursive=True), server.process]:
            member.kill()
        process.wait()
    assert server.cpu_s() == 0
