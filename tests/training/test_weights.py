"""generator.safetensors: round trip, and every wrong file named for what it is."""

import json
import re
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from export.__main__ import main as export_main
from tests.support.tiny_runs import flags, printed, refused
from training.__main__ import main as training_main
from training.lab.judge import Origin, load_or_fit
from training.networks import Generator, new_generator
from training.weights import (
    GeneratorEMA,
    WeightsError,
    load_generator,
    recalibrate,
    save_generator,
)


@pytest.fixture
def generator() -> Generator:
    torch.manual_seed(0)
    return new_generator(6, 2, 3, 32)


def test_round_trip(generator: Generator, tmp_path: Path) -> None:
    calibrated = recalibrate(generator, 64)
    save_generator(tmp_path / "g.safetensors", calibrated, {"steps": 3})
    loaded, info = load_generator(tmp_path / "g.safetensors")
    noise = torch.randn(3, 6)
    assert torch.equal(loaded(noise), calibrated(noise))
    assert not loaded.training
    assert info.provenance == {"steps": 3}


def write_cut(path: Path, network: Generator) -> None:
    save_generator(path, network, {})
    path.write_bytes(path.read_bytes()[:-100])


def write_archive(path: Path, _network: Generator) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("MAR-INF/MANIFEST.json", "{}")


def saved_with(metadata: str) -> Callable[[Path, Generator], None]:
    return lambda path, network: save_file(network.state_dict(), path, {"dcgan": metadata})


OTHER_NZ = {"nz": 9, "ngf": 2, "channels": 3, "image_size": 32, "provenance": {}}
# What each is called -> what writes it.
WRONG: dict[str, Callable[[Path, Generator], object]] = {
    "a TorchScript file": lambda path, _: torch.jit.save(torch.jit.script(torch.nn.ReLU()), path),
    "a PyTorch file": lambda path, network: torch.save(network, path),
    "an empty file": lambda path, _: path.touch(),
    "damaged, or of an unknown kind": lambda path, _: path.write_bytes(b"hello" * 100),
    "without 'dcgan' metadata": lambda path, _: save_file({"w": torch.zeros(2)}, path),
    "says nz 9": saved_with(json.dumps(OTHER_NZ)),
    "its metadata is malformed": saved_with('{"nz": ' + "[" * 100_000),
    "not a generator.safetensors": write_cut,
    "TorchServe archive": write_archive,
}


@pytest.mark.parametrize("words", WRONG)
def test_a_wrong_file_is_named(generator: Generator, tmp_path: Path, words: str) -> None:
    WRONG[words](tmp_path / "wrong", generator)
    with pytest.raises(WeightsError, match=re.escape(words)):
        load_generator(tmp_path / "wrong")


NAN, INF = float("nan"), float("inf")
NO_NUMBERS = [("layers.0.weight", value) for value in (NAN, INF, -INF, 1e20, -1e5)] + [
    ("layers.1.running_mean", 1e20),
    *(("layers.4.running_var", value) for value in (NAN, INF, 1e20, 0.0, -1.0)),
]


@pytest.mark.parametrize(("name", "value"), NO_NUMBERS)
def test_weights_that_are_no_numbers(
    generator: Generator, tmp_path: Path, name: str, value: float
) -> None:
    generator.state_dict()[name].view(-1)[-1] = value
    save_generator(tmp_path / "g.safetensors", generator, {})
    with pytest.raises(
        WeightsError, match=rf"{name} holds {value:g} \(1 such of ".replace("+", ".")
    ):
        load_generator(tmp_path / "g.safetensors")


@pytest.mark.parametrize("kind", [torch.complex64, torch.bool, torch.int8, torch.float8_e4m3fn])
def test_weights_of_another_type(generator: Generator, tmp_path: Path, kind: torch.dtype) -> None:
    """Even where the values fit: what they were meant to be is not known."""
    path = tmp_path / "g.safetensors"
    save_generator(path, generator, {})
    change(path, lambda tensor: tensor.to(kind))
    with pytest.raises(WeightsError, match=rf"layers\.0\.weight is of {kind}; weights are"):
        load_generator(path)


def test_weights_that_overflow_together(tmp_path: Path) -> None:
    """Each by itself is allowed."""
    torch.manual_seed(0)
    generator = new_generator(6, 2, 3, 128)
    for parameter in generator.parameters():
        parameter.data.sign_().mul_(6e4)
    save_generator(tmp_path / "g.safetensors", generator, {})
    with pytest.raises(WeightsError, match=r"g\.safetensors: the pixels .* are no numbers"):
        load_generator(tmp_path / "g.safetensors")


@pytest.mark.parametrize(
    "command",
    [["walk", "--weights"], ["evaluate", "--weights"], ["--start-from"], []],
    ids=["walk", "evaluate", "start-from", "export"],
)
def test_each_command_names_the_tensor(
    generator: Generator,
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    command: list[str],
) -> None:
    path = tmp_path / "g.safetensors"
    save_generator(path, generator, {})
    poison(path)
    if command == ["--start-from"]:
        command = flags(folder, tmp_path / "run", *command)
    main = training_main if command else export_main
    assert main([*(command or ["--weights"]), str(path)]) == 2
    said = capsys.readouterr()
    assert "g.safetensors: layers.0.weight holds nan (1 such of " in said.err
    assert said.out == ""
    assert not (tmp_path / "run").exists()


def test_the_judge_is_looked_at_too(tmp_path: Path) -> None:
    origin = Origin(16, "#ffffff", 999, 16)
    load_or_fit(tmp_path / "judge.safetensors", origin)
    poison(tmp_path / "judge.safetensors")
    with pytest.raises(WeightsError, match=r"judge\.safetensors: \S+\.weight holds nan"):
        load_or_fit(tmp_path / "judge.safetensors", origin)


def change(path: Path, to: Callable[[Tensor], Tensor]) -> None:
    """The first weight of a safetensors file."""
    with safe_open(path, "pt") as opened:
        metadata = opened.metadata()
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    name = next(name for name in tensors if name.endswith(".weight"))
    save_file(tensors | {name: to(tensors[name])}, path, metadata)


def poison(path: Path) -> None:
    """Let a weight of a safetensors file be no number."""
    change(path, lambda tensor: tensor.put(torch.tensor([0]), torch.tensor([NAN])))


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("network", ["generator", "discriminator", "ema"])
def test_checkpoints_too(
    folder: Path,
    out: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    network: str,
) -> None:
    assert training_main(flags(folder, out, "--checkpoint-every", "3")) == 0

    def spoil(path: Path) -> None:
        state = torch.load(path, weights_only=True)
        state[network]["layers.0.weight"][0, 0, 0, 0] = NAN
        torch.save(state, path)

    spoil(out / "checkpoints" / "step_00000006.pt")
    (out / "checkpoints" / "best.pt").unlink()
    printed(capsys, "--resume --max-steps 7", out=out)  # from the one before
    where = rf"step_0000000.\.pt, {network}: layers\.0\.weight holds nan"
    assert re.search(where, caplog.text)
    for path in (out / "checkpoints").iterdir():
        spoil(path)
    assert re.search(where, refused(capsys, "--resume --max-steps 7", out=out))
    spoilt = out / "checkpoints" / "step_00000007.pt"
    assert re.search(where, refused(capsys, flags(folder, tmp_path / "b"), start_d_from=spoilt))


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="python -m training"):
        load_generator(tmp_path / "none.safetensors")


def test_recalibrated_copy_is_deterministic_and_independent_of_neighbours(
    generator: Generator,
) -> None:
    first, again = recalibrate(generator, 256), recalibrate(generator, 256)
    noise = torch.randn(8, 6, generator=torch.Generator().manual_seed(1))
    assert torch.equal(first(noise), again(noise))
    assert torch.allclose(first(noise)[:1], first(noise[:1]), atol=1e-6)
    # The copy's statistics describe its own activations: nearly those of train mode, and far
    # from those of a network whose running statistics were never measured.
    batch = torch.randn(256, 6, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        in_training = generator.train()(batch)
        assert (first(batch).std() / in_training.std()).item() == pytest.approx(1, abs=0.1)
        assert Generator(6, 2, 3, 32).eval()(batch).std() < in_training.std() / 2


def test_average_follows_the_ramp(generator: Generator) -> None:
    ema = GeneratorEMA(generator, decay=0.9)
    moved = new_generator(6, 2, 3, 32)
    before = [p.clone() for p in ema.generator.parameters()]
    ema.update(moved, step=0)  # decay (1 + 0) / (10 + 0)
    for old, new, averaged in zip(
        before, moved.parameters(), ema.generator.parameters(), strict=True
    ):
        assert torch.allclose(averaged, 0.1 * old + 0.9 * new, atol=1e-6)
    off = GeneratorEMA(generator, decay=0.0)
    off.update(moved, step=1000)
    for new, averaged in zip(moved.parameters(), off.generator.parameters(), strict=True):
        assert torch.equal(averaged, new)
