"""The backend for GPUs: with a stand-in for what only a GPU can record, and (-m gpu) on a card."""

import contextlib
import logging
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
import pytest
import torch
from torch import nn

from deploy.server import ROOT
from export.models import export_torchscript, fold_batchnorm
from handler.backends import choose, torch_gpu
from handler.backends.base import generate
from handler.backends.choose import open_backend
from handler.backends.torch_gpu import (
    ConvolutionNetwork,
    Run,
    TorchGpuBackend,
    capture,
    take_gpu,
)
from handler.backends.torchscript import layers_of, load_torchscript
from handler.latents import Latents, from_seeds
from handler.pixels import Images
from handler.settings import Limits, Settings
from tests.support.tiny_models import Clipped, right, save_torchscript, tiny_card, vivid
from training.networks import LatentLaw
from training.weights import load_generator

SMALL = Limits(max_batch_images=4)
Forward = Callable[[torch.Tensor], torch.Tensor]


@pytest.fixture(autouse=True)
def settings_of_cudnn() -> Iterator[None]:
    """They are the process's: other tests have them as they were."""
    conv, cudnn = torch.backends.cudnn.conv, torch.backends.cudnn
    before = (conv.fp32_precision, cudnn.benchmark, cudnn.deterministic)
    yield
    conv.fp32_precision, cudnn.benchmark, cudnn.deterministic = before


class Recorder:
    """In the place of ``capture``: runs exact sizes on the CPU, or refuses."""

    def __init__(self, refusal: Exception | None = None) -> None:
        self.refusal = refusal
        self.recorded: list[tuple[int, int, str]] = []
        self.ran: list[int] = []

    def __call__(self, forward: Forward, count: int, nz: int, device: str) -> Run:
        if self.refusal is not None:
            raise self.refusal
        self.recorded.append((count, nz, device))

        def run(latents: Latents) -> Images:
            assert (latents.shape, latents.dtype) == ((count, nz), np.float32)
            self.ran.append(count)
            with torch.inference_mode():
                images: Images = forward(torch.from_numpy(latents)).numpy()
            return images

        return run


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    made = Recorder()
    monkeypatch.setattr(torch_gpu, "capture", made)
    return made


def backend(
    folder: Path,
    network: nn.Module,
    limits: Limits = SMALL,
    precision: Literal["float16", "bfloat16", "float32"] = "float32",
) -> TorchGpuBackend:
    save_torchscript(network, folder / "generator.pt")
    settings = Settings(limits=limits)
    return TorchGpuBackend(folder / "generator.pt", tiny_card(), settings, "cpu", precision)


def test_what_overflows_becomes_no_nan() -> None:
    """For latents that few send: in a batch of others they are noticed by no comparison."""
    generator = vivid()
    first, second, *_ = (m for m in generator.modules() if isinstance(m, nn.ConvTranspose2d))
    with torch.no_grad():
        first.weight.mul_(2**14)
        second.weight.div_(2**14)
    layers = layers_of(generator.named_parameters(), "x")
    short, full = (ConvolutionNetwork(layers, d, "cpu") for d in (torch.float16, torch.float32))
    full._most = torch.finfo(torch.float16).max
    latents = torch.from_numpy(100 * from_seeds(range(5), 8))
    with torch.inference_mode():
        off = (short(latents).int() - full(latents).int()).abs()
        full._most = torch.inf
        assert (short(latents).int() - full(latents).int()).abs().float().mean() > 10
    assert off.float().mean() < 3


@pytest.mark.parametrize(("most", "size"), [(4, 4), (64, 64), (256, 64)])
def test_a_larger_batch_is_several_passes_of_the_one_that_was_recorded(
    tmp_path: Path, recorder: Recorder, most: int, size: int
) -> None:
    """So the pictures do not depend on max_batch_images."""
    generator = vivid()
    made = backend(tmp_path, generator, Limits(max_batch_images=most))
    assert recorder.recorded == [(size, 8, "cpu")]
    recorder.ran.clear()
    latents = from_seeds(range(most + 1), 8)
    assert np.abs(made(latents) - right(generator, latents)).max() <= 1
    assert recorder.ran == [size] * (most // size + 1)
    assert (made.precision, made.warnings) == ("float32", {})


def test_what_the_cpu_computes_at_the_start_has_the_workers_share_of_it(
    tmp_path: Path, recorder: Recorder
) -> None:
    before = torch.get_num_threads()
    save_torchscript(vivid(), tmp_path / "generator.pt")
    try:
        for threads in (1, 3):
            settings = Settings(limits=SMALL, threads=threads)
            TorchGpuBackend(tmp_path / "generator.pt", tiny_card(), settings, "cpu", "float32")
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert len(recorder.recorded) == 2


@pytest.mark.usefixtures("recorder")
def test_float32_is_float32_and_kernels_are_chosen_by_rule(tmp_path: Path) -> None:
    cudnn = torch.backends.cudnn
    cudnn.benchmark, cudnn.deterministic, cudnn.conv.fp32_precision = True, False, "tf32"
    backend(tmp_path, vivid())
    assert (cudnn.benchmark, cudnn.deterministic) == (False, True)
    assert cudnn.conv.fp32_precision == "ieee"


@pytest.mark.parametrize("latent", ["normal", "uniform"])
def test_what_overflows_in_float16_is_made_in_bfloat16(
    tmp_path: Path, recorder: Recorder, latent: LatentLaw, caplog: pytest.LogCaptureFixture
) -> None:
    generator = vivid(latent=latent)
    first, second, *_ = (m for m in generator.modules() if isinstance(m, nn.ConvTranspose2d))
    with torch.no_grad():  # the same pictures, by way of numbers that float16 does not have
        first.weight.mul_(2**20)
        assert first.bias is not None
        first.bias.mul_(2**20)
        second.weight.div_(2**20)
    latents = from_seeds(range(5), 8)
    wanted = right(generator, latents)
    with caplog.at_level(logging.INFO):
        made = backend(tmp_path, generator, precision="float16")
    assert made.precision == "bfloat16"
    assert 0 < np.abs(made(latents) - wanted).mean() < 2
    assert made.warnings.keys() == {"precision"}
    assert "bfloat16 is used: float16 is off by" in made.warnings["precision"]
    assert "bfloat16 is off by" in caplog.text  # what it is, is told too
    assert [count for count, _, _ in recorder.recorded] == [4, 4]


@pytest.mark.usefixtures("recorder")
def test_a_precision_that_the_gpu_cannot_run_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a card of Turing has no bfloat16."""
    ordinary = ConvolutionNetwork.__call__

    def picky(self: ConvolutionNetwork, latents: torch.Tensor) -> torch.Tensor:
        if self._dtype is torch.bfloat16:
            raise RuntimeError("GET was unable to find an engine to execute this computation")
        return ordinary(self, latents)

    monkeypatch.setattr(ConvolutionNetwork, "__call__", picky)
    made = backend(tmp_path, vivid(), precision="bfloat16")
    assert made.precision == "float32"
    assert "bfloat16 does not run (GET was unable" in made.warnings["precision"]


@pytest.mark.usefixtures("recorder")
def test_a_file_that_is_more_than_its_layers_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"float32 is off by .* number_of_gpu=0"):
        backend(tmp_path, Clipped(vivid()))


@pytest.mark.parametrize("cache", [None, RuntimeError("captures_underway.empty() INTERNAL ASSERT")])
def test_a_pass_that_cannot_be_recorded_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Exception | None
) -> None:
    """Also by a torch that frees no memory after it."""

    def empty_cache() -> None:
        if cache:
            raise cache

    monkeypatch.setattr(torch.cuda, "empty_cache", empty_cache)
    words = "CUDA error: operation not permitted when stream is capturing"
    refusal = torch.AcceleratorError(words)
    monkeypatch.setattr(torch_gpu, "capture", Recorder(refusal))
    generator, sizes = vivid(), list[int]()
    made = backend(tmp_path, generator)
    assert made.warnings.keys() == {"graphs"}
    assert f"kernel by kernel: {words}" in made.warnings["graphs"]
    forward = made._forward
    made._forward = lambda latents: sizes.append(len(latents)) or forward(latents)  # type: ignore
    latents = from_seeds(range(5), 8)
    assert np.abs(made(latents) - right(generator, latents)).max() <= 1
    assert sizes == [4, 4]  # as recorded ones would have


@pytest.mark.parametrize("fits", [1, 2, 3, 4])
def test_without_a_graph_smaller_passes_are_made_of_what_does_not_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fits: int
) -> None:
    monkeypatch.setattr(torch_gpu, "capture", Recorder(RuntimeError("out of memory")))
    made = backend(tmp_path, vivid())
    latents = from_seeds(range(6), 8)
    wanted, forward = made(latents), made._forward

    def short(latents: Latents) -> Images:
        if len(latents) > fits:
            raise RuntimeError("GET was unable to find an engine to execute this computation")
        return forward(latents)

    monkeypatch.setattr(made, "_forward", short)
    (images,) = generate(made, [latents], 64)
    assert images is not None
    assert np.abs(images.astype(int) - wanted).max() <= 1
    fits = 0
    with pytest.raises(RuntimeError, match="unable to find an engine"):
        generate(made, [latents], 64)


class Cuda:
    """As much of torch.cuda as ``capture`` uses, on the CPU: what is recorded runs at a replay."""

    def __init__(self) -> None:
        self.events: list[str] = []

    def note(self, event: str) -> Callable[..., None]:
        return lambda *_: self.events.append(event)

    def forward(self, noise: torch.Tensor) -> torch.Tensor:
        """The pixels are the first number of each latent, in a place that stays."""
        self.events.append("forward")
        if not hasattr(self, "pixels"):
            self.pixels = noise.new_zeros((len(noise), 3, 4, 1), dtype=torch.uint8)
        self.noise = noise
        return self.pixels.copy_(noise[:, :1, None, None].expand(self.pixels.shape))

    def stream(self, *_: object) -> Any:
        return SimpleNamespace(wait_stream=self.note("wait"), synchronize=self.note("synchronize"))

    @contextlib.contextmanager
    def within(self, thing: Any) -> Iterator[None]:
        name = "graph" if hasattr(thing, "replay") else "side"
        self.events.append(f"{name} begins")
        yield
        self.events.append(f"{name} ends")

    def graph(self) -> Any:
        return SimpleNamespace(replay=lambda: self.forward(self.noise))


def unpinned(make: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    def made(*shape: Any, **options: Any) -> torch.Tensor:
        assert options.pop("pin_memory") is True
        return make(*shape, **options)

    return made


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Cuda:
    stood_in = Cuda()
    for name, stand_in in (
        ("Stream", stood_in.stream),
        ("current_stream", stood_in.stream),
        ("stream", stood_in.within),
        ("graph", stood_in.within),
        ("CUDAGraph", stood_in.graph),
        ("set_stream", stood_in.note("back")),
        ("synchronize", stood_in.note("device")),
    ):
        monkeypatch.setattr(torch.cuda, name, stand_in)
    for make in (torch.zeros, torch.empty):
        monkeypatch.setattr(torch, make.__name__, unpinned(make))
    return stood_in


def test_what_is_recorded_and_replayed(cuda: Cuda) -> None:
    run = capture(cuda.forward, 4, 2, "cpu")
    warmed_up = ["wait", "side begins", *["forward"] * 3, "side ends", "wait"]
    assert cuda.events == [*warmed_up, "graph begins", "forward", "graph ends"]
    cuda.events.clear()
    first, second = (run(np.full((4, 2), value, np.float32)) for value in (5, 6))
    assert cuda.events == ["forward", "synchronize"] * 2
    assert ((first == 5).all(), (second == 6).all()) == (True, True)  # no place of the graph's


def test_a_recording_that_fails_gives_the_stream_back(cuda: Cuda) -> None:
    def forward(noise: torch.Tensor) -> torch.Tensor:
        if "graph begins" in cuda.events:
            raise torch.AcceleratorError("CUDA error: operation not permitted")
        return cuda.forward(noise)

    with pytest.raises(torch.AcceleratorError):
        capture(forward, 4, 2, "cpu")
    assert cuda.events[-3:] == ["graph begins", "back", "device"]


def test_a_gpu_that_is_lost_ends_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither without graphs nor in another precision would it do any better."""
    lost = torch.AcceleratorError("CUDA error: an illegal memory access was encountered")
    monkeypatch.setattr(torch_gpu, "capture", Recorder(lost))
    with pytest.raises(torch.AcceleratorError):
        backend(tmp_path, vivid(), precision="float16")


@pytest.mark.usefixtures("recorder")
def test_a_gpu_is_given_float16(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    devices: list[str] = []

    def on_the_cpu(path: Path, card: Any, settings: Any, device: str, precision: str) -> Any:
        devices.append(device)
        return TorchGpuBackend(path, card, settings, "cpu", precision)

    monkeypatch.setattr(choose, "take_gpu", lambda _: "")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    monkeypatch.setattr(choose, "TorchGpuBackend", on_the_cpu)
    save_torchscript(vivid(), tmp_path / "generator.pt")
    made = open_backend(tmp_path, tiny_card(), Settings(limits=SMALL), 1)
    assert (made.name, made.precision, devices) == ("torch_gpu", "float16", ["cuda:1"])


def test_a_machine_without_a_driver() -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has one")
    assert "no NVIDIA driver" in take_gpu(0)


@pytest.mark.parametrize(
    ("error", "wanted"),
    [
        (
            RuntimeError(
                "The NVIDIA driver on your system is too old (found version 12040). Please update "
                "your GPU driver\nand more"
            ),
            r"too old \(found version 12040\).*driver 580 or newer",
        ),
        (
            torch.AcceleratorError("CUDA error: no kernel image is available for execution\nmore"),
            r"it is sm_70, and torch has kernels for sm_75 sm_80 only",
        ),
        (AssertionError("Torch not compiled with CUDA enabled"), r"not compiled with GPU enabled"),
        (
            torch.cuda.DeferredCudaCallError(
                "CUDA call failed lazily at initialization with error: no such device\n\nmore"
            ),
            r"GPU call failed lazily at initialization with error: no such device",
        ),
        (
            torch.AcceleratorError("CUDA error: out of memory\nCompile with"),
            r'^its memory is taken, .* \(torch says "GPU error: out of memory"\)$',
        ),
    ],
)
def test_why_a_gpu_cannot_be_used(
    error: Exception, wanted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: int) -> None:
        raise error

    monkeypatch.setattr(torch.cuda, "set_device", refuse)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (7, 0))
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ["sm_75", "sm_80"])
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    reason = take_gpu(0)
    assert re.search(wanted, reason)
    assert "\n" not in reason
    assert "CUDA" not in reason  # TorchServe would report a lack of memory


# On a card: python -m pytest -m gpu tests/handler/backends/test_torch_gpu.py


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    generator, _ = load_generator(ROOT / "model_store" / "generator.safetensors")
    path = tmp_path_factory.mktemp("shipped") / "generator.pt"
    export_torchscript(fold_batchnorm(generator), path)
    return path


@pytest.mark.gpu
@pytest.mark.parametrize(("precision", "most"), [("float32", 1), ("bfloat16", 40), ("float16", 8)])
def test_a_card_draws_what_the_file_draws(shipped: Path, precision: str, most: int) -> None:
    """TF32 would be off by up to 3 levels. Any batch, little memory and a lost card: make gpu-check
    holds those."""
    assert take_gpu(0) == ""
    settings = Settings(limits=Limits(max_batch_images=256))
    card = tiny_card(nz=100, image_size=64)
    made = TorchGpuBackend(shipped, card, settings, "cuda:0", precision)
    assert (made.precision, made.warnings) == (precision, {})
    latents = from_seeds(range(256), 100)
    recorded = made(latents)
    off = np.abs(recorded - right(load_torchscript(shipped), latents))
    assert off.max() <= most
    assert off.mean() < {"float32": 0.005, "bfloat16": 1, "float16": 0.1}[precision]
    made._run = made._kernel_by_kernel
    np.testing.assert_array_equal(made(latents), recorded)
