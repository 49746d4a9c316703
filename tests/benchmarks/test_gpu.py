"""``python -m benchmarks.gpu``: rehearsed on the CPU, and stages that go wrong."""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import NoReturn

import numpy as np
import psutil
import pytest
import torch

from benchmarks.gpu import __main__ as command
from benchmarks.gpu import runner, served, stages
from benchmarks.gpu.runner import Bench, Row, Stage, report, run
from deploy.server import ROOT, ServerError
from handler.backends import torch_gpu
from handler.backends.torch_gpu import ConvolutionNetwork, TorchGpuBackend
from handler.latents import Latents
from handler.pixels import Images
from handler.service import Service
from handler.settings import Card, Settings
from tests.support.tiny_models import save_torchscript, tiny_card, tiny_generator
from training.data.decode import Pictures

UNSERVED = [stage.name for stage in command.STAGES if stage.name != "served"]
HERE = "tests.support.gpu_stages"


def rehearse(out: Path, *names: str) -> list[Row]:
    """The rows of these stages, all of which have passed."""
    given = ["--device", "cpu", "--quick", "--out", str(out), "--only", *names]
    assert command.main(given) == 0, (out / "table.md").read_text()
    lines = (out / "results.jsonl").read_text().splitlines()
    rows: list[Row] = [json.loads(line) for line in lines]
    ends = {row["stage"]: row["ended"] for row in rows if "ended" in row}
    assert ends == dict.fromkeys(names, "passed")
    return [row for row in rows if "ended" not in row]


@pytest.fixture
def imported_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes of stages are copies of one that has torch, which takes most of their time; CUDA
    would not survive what a CPU does."""
    copies = multiprocessing.get_context("forkserver")
    copies.set_forkserver_preload(["benchmarks.gpu.stages", "training.loop"])
    monkeypatch.setattr(multiprocessing, "get_context", lambda _: copies)


@pytest.mark.usefixtures("imported_once")
def test_every_stage_without_a_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    rows = rehearse(tmp_path / "out", *UNSERVED)
    table = capsys.readouterr().out
    assert (tmp_path / "out" / "table.md").read_text() == table.removesuffix("\n")
    for name in UNSERVED:
        own = [row for row in rows if row["stage"] == name]
        assert own
        assert f"\n{name}:\n" in table
        assert all(f"| {key}" in table for row in own for key in row if key != "stage")
    same = [row for row in rows if row["stage"] == "sameness"]
    assert {row["where"] for row in same} >= {"in a batch of 9", "in process 3"}
    assert {row["precision"] for row in same} == {"float32", "bfloat16"}
    assert {row["ok"] for row in same} == {True}


@pytest.mark.long
def test_servers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    rows = rehearse(tmp_path / "out", "served")
    assert [row["server"] for row in rows] == ["stock, 1 worker"] * 2 + ["ours, 1 worker"] * 2
    assert all(row["images/s"] > 10 for row in rows)
    assert all("of stock" in row for row in rows[2:])


@pytest.mark.parametrize("broken", ["stock", "1", None])
def test_servers_that_do_not_start_or_have_no_time_are_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str | None
) -> None:
    now = 0.0

    @contextmanager
    def server(_: Path, packed: Path = Path("stock")) -> Iterator[float]:
        nonlocal now
        now += 30
        if packed.name == broken:
            raise ServerError("the model failed to load.\n  its log")
        yield 10.0 if packed.name == "stock" else 50.0

    monkeypatch.setattr(served, "time", SimpleNamespace(monotonic=lambda: now))
    monkeypatch.setattr(served, "find_java_home", lambda: Path("java"))
    monkeypatch.setattr(served.servers, "archive", lambda _, __, workers: Path(str(workers)))
    monkeypatch.setattr(served.servers, "stock", server)
    monkeypatch.setattr(served.servers, "ours", server)
    monkeypatch.setattr(
        served,
        "loads",
        lambda _, rate, *__: [{"images each": 1, "connections": 8, "images/s": rate}],
    )
    rows = {
        row.pop("server"): row
        for row in served.served(Bench(False, False, tmp_path, tmp_path, 130))
    }
    assert list(rows) == [
        "stock, 1 worker",
        *(f"ours, {n}" for n in ("1 worker", "4 workers", "2 workers", "6 workers")),
    ]
    wrong = {"ok": False, "note": "the model failed to load."}
    work = {"images each": 1, "connections": 8}
    ours = {**work, "images/s": 50.0} | ({} if broken == "stock" else {"of stock": 5.0})
    late = {"note": "left out: the time would not do"}
    assert list(rows.values()) == [
        wrong if broken == "stock" else {**work, "images/s": 10.0},
        wrong if broken == "1" else ours,
        ours,
        ours,
        late,
    ]


@pytest.fixture
def settings_of_cudnn() -> Iterator[None]:
    """They are the process's: other tests have them as they were."""
    conv, cudnn = torch.backends.cudnn.conv, torch.backends.cudnn
    before = (conv.fp32_precision, cudnn.benchmark, cudnn.deterministic)
    yield
    conv.fp32_precision, cudnn.benchmark, cudnn.deterministic = before


@pytest.mark.usefixtures("settings_of_cudnn")
def test_a_wrong_pixel_and_a_worker_that_goes_on_are_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = tiny_bench(tmp_path)
    worker = stages._backend(given, "float32")
    assert {row.get("ok") for row in stages.pixels(given)} == {True, None}
    assert [row["ok"] for row in stages.lost(given)] == [True, True]

    def off(latents: Latents) -> Images:
        images = worker(latents)
        images[-1, 0, 0, 0] ^= 2
        return images

    monkeypatch.setattr(stages, "_backend", lambda *_: off)
    (first, *_) = stages.pixels(given)
    assert (first["levels off, at most"], first["ok"]) == (2, False)
    monkeypatch.setattr(stages, "_backend", lambda *_: worker)
    monkeypatch.setattr(Service, "if_lost", lambda *_: None)
    assert [row["ok"] for row in stages.lost(given)] == [True, False]


@pytest.mark.usefixtures("settings_of_cudnn")
def test_what_a_lost_gpu_has_read_is_not_freed_before_the_end_is_told(tmp_path: Path) -> None:
    """torch ends a process that frees it (CachingHostAllocator::free)."""
    given = tiny_bench(tmp_path)
    before = set(map(id, stages._ALIVE))
    list(stages.lost(given))
    (kept,) = (each for each in stages._ALIVE if id(each) not in before)
    assert isinstance(kept, TorchGpuBackend)


@pytest.mark.usefixtures("settings_of_cudnn")
@pytest.mark.parametrize("name", ["capture", "pixels", "sameness", "speed"])
def test_a_precision_that_fails_costs_no_other(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given, opened = tiny_bench(tmp_path), stages._backend

    def picky(given: Bench, precision: str) -> TorchGpuBackend:
        if precision == "float32":
            raise RuntimeError("float32 does not run\nand more")
        return opened(given, precision)

    class Alone(ThreadPoolExecutor):
        def __init__(self, count: int, _: object) -> None:
            super().__init__(count)

    monkeypatch.setattr(stages, "ProcessPoolExecutor", Alone)
    monkeypatch.setattr(stages, "_backend", picky)
    first, *others = getattr(stages, name)(given)
    note = "RuntimeError: float32 does not run"
    assert first == {"precision": "float32", "ok": False, "note": note}
    assert {row["precision"] for row in others} == {"bfloat16"}
    lost = torch.AcceleratorError("CUDA error: device-side assert triggered")
    monkeypatch.setattr(stages, "_backend", raising(lost))
    with pytest.raises(torch.AcceleratorError):
        list(getattr(stages, name)(given))


def raising(error: Exception) -> Callable[..., NoReturn]:
    def fail(*_: object, **__: object) -> NoReturn:
        raise error

    return fail


def test_a_trained_precision_that_fails_costs_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures = Pictures(np.zeros((8, 32, 32, 3), np.uint8), "grey")
    monkeypatch.setattr(stages, "_pictures", lambda _: pictures)
    monkeypatch.setattr(stages, "_train", raising(RuntimeError("no such kernel")))
    given = replace(bench(tmp_path), quick=False)
    rows = [(row["precision"], row["ok"], row["note"]) for row in stages.resume(given)]
    note = "RuntimeError: no such kernel"
    assert rows == [("float32", False, note), ("bfloat16", False, note)]
    monkeypatch.setattr(stages, "_train", raising(ModuleNotFoundError(name="tensorboard")))
    with pytest.raises(ModuleNotFoundError):
        list(stages.resume(given))


def test_a_card_is_filled_in_pieces_where_it_has_no_large_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mib, taken, asked = 2**20, list[int](), list[int]()

    def empty(size: int, dtype: torch.dtype, device: str) -> torch.Tensor:
        assert (dtype, device) == (torch.uint8, "cuda:0")
        asked.append(size // mib)
        if size > 300 * mib:
            raise torch.OutOfMemoryError("CUDA out of memory")
        taken.append(size // mib)
        return torch.zeros(1)

    monkeypatch.setattr(torch, "empty", empty)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (1000 * mib, 1024 * mib))
    given = replace(bench(tmp_path), on_gpu=True)
    assert len(stages._fill(given, 8)) == len(taken)
    assert 8 <= 1000 - sum(taken) < 18
    assert asked[:3] == [992, 496, 248]
    monkeypatch.setattr(torch, "empty", raising(torch.AcceleratorError("CUDA error: unknown")))
    with pytest.raises(torch.AcceleratorError):
        stages._fill(given, 8)


@pytest.mark.usefixtures("settings_of_cudnn")
def test_what_only_a_card_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """CUDA's answers are stand-ins, and the card is the CPU, with room for passes of 4 images."""
    answers = {
        "mem_get_info": (2**29, 2**36), "max_memory_reserved": 2**27, "device_count": 1,
        "get_device_properties": SimpleNamespace(major=9, minor=0, total_memory=2**36),
        "empty_cache": None, "reset_peak_memory_stats": None, "synchronize": None,
    }  # fmt: skip
    for name, answer in answers.items():
        monkeypatch.setattr(torch.cuda, name, partial(lambda answer, *_: answer, answer))
    eager = stages._eager

    def opened(model: Path, card: Card, settings: Settings, gpu_id: int) -> TorchGpuBackend:
        assert gpu_id == 0
        return TorchGpuBackend(model / "generator.pt", card, settings, "cpu", settings.precision)

    def captured(network: ConvolutionNetwork, size: int, nz: int, device: str) -> torch_gpu.Run:
        def run(latents: Latents) -> Images:
            assert latents.shape == (size, nz)  # a graph has one size
            return eager(network, device, latents)

        return run

    def small(network: ConvolutionNetwork, device: str, latents: Latents) -> Images:
        if len(latents) > 4:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return eager(network, device, latents)

    monkeypatch.setattr(Bench, "device", "cpu")
    monkeypatch.setattr(torch.backends.cudnn, "version", raising(RuntimeError("another cuDNN")))
    monkeypatch.setattr(stages, "take_gpu", lambda _: "")
    monkeypatch.setattr(stages, "open_backend", opened)
    monkeypatch.setattr(torch_gpu, "capture", captured)
    given = replace(tiny_bench(tmp_path), on_gpu=True)
    names = ("machine", "capture", "pixels", "speed")
    rows = {name: list(getattr(stages, name)(given)) for name in names}
    monkeypatch.setattr(stages, "_eager", small)
    rows["memory"] = list(stages.memory(given))
    assert [row for own in rows.values() for row in own if row.get("ok") is False] == []
    assert {row["precision"] for row in rows["speed"]} == {"float32", "bfloat16", "float16"}
    assert {"what": "card", "seen": "sm_90, 64.0 GiB, 1 of 1"} in rows["machine"]
    assert {"what": "CUDA, cuDNN", "seen": f"{torch.version.cuda}, another cuDNN"} in rows[
        "machine"
    ]
    (worker, *_) = rows["capture"]
    assert worker["precision"] == "float16"
    assert (worker["graph"], worker["peak MiB"], worker["card MiB"]) == (True, 128, 65024)
    assert [row["passes of"] for row in rows["memory"] if row["what"].startswith("no graph")] == [
        "[4]"
    ] * 3


def tiny_bench(folder: Path) -> Bench:
    """With a network of a few channels."""
    given = bench(folder)
    given.model.mkdir()
    save_torchscript(tiny_generator(), given.model / "generator.pt")
    (given.model / "card.json").write_text(tiny_card().model_dump_json())
    return given


def bench(folder: Path) -> Bench:
    return Bench(False, True, folder / "model", folder)


Ends = dict[str, tuple[str, str]]


def ends(folder: Path, *chosen: Stage, seconds: float = 60) -> tuple[Ends, list[Row]]:
    """How each stage ended and why, and all rows."""
    rows = list(run(chosen, bench(folder), folder, seconds))
    assert [json.loads(line) for line in (folder / "results.jsonl").open()] == rows
    return {row["stage"]: (row["ended"], row["reason"]) for row in rows if "ended" in row}, rows


def test_a_stage_that_goes_wrong_costs_only_itself(tmp_path: Path) -> None:
    names = ["wrong", "fault", "crash", "crash_at_the_end", "unfit", "lacking", "broken", "good"]
    found, rows = ends(tmp_path, *(Stage(name, 30, HERE) for name in names))
    assert found == {
        "wrong": ("failed", "rows that are not ok: 1"),
        "fault": ("failed", "ValueError: a planted fault"),
        "crash": ("failed", f"its process crashed (SIGSEGV); see {tmp_path}/stages.log"),
        "crash_at_the_end": ("passed", ""),
        "unfit": ("skipped", "there is no Java"),
        "lacking": ("skipped", "a_package_that_is_not_installed is not installed"),
        "broken": ("failed", "ModuleNotFoundError: No module named 'handler.no_such_module'"),
        "good": ("passed", ""),
    }
    measured = [row["stage"] for row in rows if "ended" not in row]
    assert measured == ["wrong", "wrong", "fault", "crash", "crash_at_the_end", "good"]
    log = (tmp_path / "stages.log").read_text()
    assert "and its second line" in log
    assert "a word of good" in log
    table = report(rows)
    assert "before the crash" in table
    assert "| no " in table.partition("wrong:")[2]


def test_a_stage_that_hangs_is_ended_with_all_that_it_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "_GRACE_S", 0.5)
    found, rows = ends(tmp_path, Stage("hang", 5, HERE), Stage("good", 30, HERE))
    assert found == {"hang": ("failed", "no end after 5 s"), "good": ("passed", "")}
    child = rows[0]["child"]
    assert not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE


def test_a_process_that_cannot_be_ended_keeps_no_stage_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pids: list[int] = []
    monkeypatch.setattr(runner, "_GRACE_S", 0.5)
    monkeypatch.setattr(runner, "_end", pids.append)
    try:
        found, _ = ends(tmp_path, Stage("hang", 5, HERE), Stage("good", 30, HERE))
        assert found == {"hang": ("failed", "no end after 5 s"), "good": ("passed", "")}
    finally:
        for pid in pids:
            process = psutil.Process(pid)
            for member in [*process.children(recursive=True), process]:
                member.kill()


def test_nothing_is_begun_when_the_time_is_up(tmp_path: Path) -> None:
    found, _ = ends(tmp_path, Stage("good", 30, HERE), seconds=4)
    assert found == {"good": ("skipped", "the 4 s were over")}


def test_without_a_gpu_nothing_is_tried(tmp_path: Path) -> None:
    """``machine`` is looked for in a module that has none."""
    found, _ = ends(tmp_path, Stage("machine", 30, HERE), Stage("good", 30, HERE))
    ended, reason = found["machine"]
    assert ended == "failed"
    assert found["good"] == ("skipped", f"machine failed: {reason}")


def test_bad_usage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    (tmp_path / "file").write_text("")
    assert command.main(["--out", str(tmp_path / "file")]) == 2
    assert "--out" in capsys.readouterr().err
    monkeypatch.chdir(tmp_path)
    assert command.main(["--out", str(tmp_path / "out")]) == 2
    assert "python -m export" in capsys.readouterr().err
    for wrong in (["--only", "speeds"], ["--minutes", "0"], ["--minutes", "nan"]):
        with pytest.raises(SystemExit) as ended:
            command.main(wrong)
        assert ended.value.code == 2
    assert "seen nan; allowed is 0.1 to 60" in capsys.readouterr().err


def test_ctrl_c_leaves_what_there_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object) -> Iterator[Row]:
        yield {"stage": "speed", "what": "the first row"}
        raise KeyboardInterrupt

    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(command, "run", interrupted)
    assert command.main(["--device", "cpu", "--out", str(tmp_path)]) == 130
    assert "the first row" in capsys.readouterr().out
