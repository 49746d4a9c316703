"""What a run begins or goes on with: what is refused, and what a killed one has left."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from filelock import FileLock
from PIL import Image

from tests.support.tiny_runs import (
    after_updates,
    assert_same,
    flags,
    journal,
    latest_state,
    noise_folder,
    printed,
    refused,
)
from tests.support.tiny_runs import start as begin
from training import start
from training.__main__ import main
from training.data import batches
from training.data.batches import LOOKED_AT, digest_of
from training.step import StepStats, Trainer
from training.weights import load_generator

pytestmark = [pytest.mark.usefixtures("quick")]

Captured = pytest.CaptureFixture[str]


@pytest.fixture
def own_folder(tmp_path: Path) -> Path:
    return noise_folder(tmp_path / "pictures")


@pytest.mark.parametrize(
    ("step", "words"), [(0, "no checkpoint yet: starting at update 0"), (5, "")]
)
def test_killed_before_its_first_checkpoint(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    step: int,
    words: str,
) -> None:
    """At update 0, and at 5, after a grid: its state was the best, and kept."""
    more = ["--sample-every", "4", "--log-every", "1"]
    whole, out = tmp_path / "whole", tmp_path / "run"
    assert main(flags(folder, tmp_path / "other", "--max-steps", "1")) == 0
    more += ["--start-from", str(tmp_path / "other" / "generator.safetensors")]
    assert main(flags(folder, whole, *more)) == 0

    def die(_trainer: Trainer, number: int, _stats: StepStats) -> None:
        if number == step:
            raise MemoryError

    with monkeypatch.context() as patched:
        after_updates(patched, die)  # as a killed process, as far as files can tell
        with pytest.raises(MemoryError):
            main(flags(folder, out, *more))
    assert not list((out / "checkpoints").glob("step_*"))
    caplog.clear()
    with caplog.at_level("INFO"):
        assert main(["--out", str(out), "--resume"]) == 0
    assert words in caplog.text
    assert_same(latest_state(out), latest_state(whole))
    weights = [run / "generator.safetensors" for run in (out, whole)]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    assert [e["step"] for e in journal(out) if "loss_d" in e] == [1, 2, 3, 4, 5, 6]


def test_killed_while_it_wrote_its_settings(folder: Path, out: Path) -> None:
    """There is no run to resume then, so the folder must do for a new one."""
    out.mkdir()
    (out / ".config-abcdefgh.json").write_text("{")
    assert main(flags(folder, out)) == 0
    assert not list(out.rglob(".*"))


def one_more(folder: Path) -> None:
    shutil.copy(folder / "0.png", folder / "zz.png")


def another(folder: Path) -> None:
    Image.new("RGB", (40, 40), "red").save(folder / "3.png")


def all_grey(folder: Path) -> None:
    for path in folder.iterdir():
        Image.open(path).convert("L").save(path)


@pytest.mark.parametrize(
    ("change", "words"),
    [(one_more, "now holds 13 RGB pictures"), (another, "now holds 12 RGB pictures"),
     (all_grey, "now holds 12 grey pictures")],
)  # fmt: skip
def test_other_pictures_are_no_continuation(
    own_folder: Path, out: Path, capsys: Captured, change: Callable[[Path], None], words: str
) -> None:
    assert main(flags(own_folder, out)) == 0
    change(own_folder)
    said = refused(capsys, "--resume --max-steps 8", out=out)
    assert "was started on 12 RGB pictures" in said
    assert words in said
    assert f"--start-from {out}/generator.safetensors" in said
    assert len(journal(out)) == len({json.dumps(e) for e in journal(out)})
    assert latest_state(out)["step"] == 6


def test_a_run_of_an_earlier_version_is_refused(
    own_folder: Path, out: Path, capsys: Captured
) -> None:
    assert main(flags(own_folder, out)) == 0
    settings = json.loads((out / "config.json").read_text())
    kept = {name: value for name, value in settings.items() if name not in ("latent", "held_out")}
    (out / "config.json").write_text(json.dumps(kept))
    words = "does not have latent, held_out: the run is of an earlier version"
    assert words in refused(capsys, "--resume --max-steps 8", out=out)
    (out / "config.json").write_text(json.dumps(settings))
    (out / "pictures.json").unlink()
    assert "cannot read" in refused(capsys, "--resume --max-steps 8", out=out)
    (out / "pictures.json").write_text("[]")
    assert "pictures.json" in refused(capsys, "--resume --max-steps 8", out=out)


def test_identity_is_of_content_and_order() -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (50, 2, 2, 3), dtype=np.uint8)
    assert digest_of(images) == digest_of(images.copy())
    assert digest_of(images) != digest_of(images[::-1])
    assert digest_of(images) != digest_of(images[:-1])
    images[[7, 30]] = images[3]
    images[40:] = 0
    images[45, 0, 0, 0] = 1
    equal = batches.first_equal(images).tolist()
    assert equal == [*range(7), 3, *range(8, 30), 3, *range(31, 41), *[40] * 4, 45, *[40] * 4]
    many = np.zeros((3 * LOOKED_AT, 1, 1, 1), np.uint8)
    many[0] = 1
    assert digest_of(many) != digest_of(np.roll(many, -1, axis=0))


def test_the_same_folder_by_another_name(
    own_folder: Path, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(flags(Path("pictures"), out)) == 0
    for number, name in enumerate(("pictures/", "./pictures", str(own_folder)), start=7):
        again = flags(Path("x"), out, "--resume", "--max-steps", str(number))
        again[1] = name
        assert main(again) == 0
    assert latest_state(out)["step"] == 9


@pytest.mark.parametrize("place", ["moved", "zipped"])
def test_the_same_pictures_in_another_place(
    own_folder: Path, out: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured, place: str
) -> None:
    monkeypatch.chdir(out.parent)
    assert main(flags(Path("pictures"), out)) == 0
    moved = out.with_name("elsewhere")
    if place == "zipped":
        moved = Path(shutil.make_archive(str(moved), "zip", own_folder))
    else:
        shutil.copytree(own_folder, moved)
    monkeypatch.chdir("/")
    settings = out / "config.json"
    settings.write_bytes(b"\xef\xbb\xbf" + settings.read_bytes())  # as some editors do
    said = refused(capsys, "--resume --max-steps 8", out=out)
    assert "If they were moved, say where to: --data" in said
    assert printed(capsys, "--resume --max-steps 8", out=out, data=moved)["steps"] == 8


def test_a_run_among_its_own_pictures(own_folder: Path, capsys: Captured) -> None:
    """Its grids are none of them: it is resumed, and the next one has the same pictures."""
    cache = ["--cache", str(own_folder / "cache")]
    assert main(flags(own_folder, own_folder / "run", *cache)) == 0
    assert main(["--out", str(own_folder / "run"), "--resume", "--max-steps", "7"]) == 0
    assert main(flags(own_folder, own_folder / "next", *cache)) == 0
    had, has = (
        json.loads((own_folder / run / "pictures.json").read_text()) for run in ("run", "next")
    )
    assert had == has
    assert len(list((own_folder / "cache").glob("*.u8"))) == 1
    capsys.readouterr()
    for path in sorted(own_folder.glob("*.png")):
        shutil.copy(path, own_folder / f"again {path.name}")
    assert main(flags(own_folder, own_folder / "third", *cache)) == 0
    assert "24 pictures (12 different), 32 x 32 px" in capsys.readouterr().err
    assert json.loads((own_folder / "third" / "pictures.json").read_text())["different"] == 12
    _, info = load_generator(own_folder / "third" / "generator.safetensors")
    assert (info.provenance["pictures"], info.provenance["different"]) == (24, 12)


def never(*_: object, **__: object) -> None:
    raise AssertionError("loaded")


def test_a_run_has_one_writer(
    folder: Path, out: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    """The second is refused before it loads or removes anything; a killed one locks nothing."""
    process = begin(folder, out)
    try:
        (out / ".stats-12345678.jsonl").write_text("being written")
        with monkeypatch.context() as patched:
            patched.setattr("training.data.sources.load", never)
            said = refused(capsys, "--resume", out=out)
            assert f"another process is writing the run in {out}" in said
            refused(capsys, flags(folder, out))
        assert (out / ".stats-12345678.jsonl").exists()
        assert main(["--out", str(out), "--resume", "--dry-run"]) == 0  # it writes nothing
        assert process.poll() is None
    finally:
        process.kill()
        process.communicate(timeout=60)
    assert (out / "run.lock").exists()
    last = str(latest_state(out)["step"] + 2)
    assert main(["--out", str(out), "--resume", "--max-steps", last]) == 0
    assert not (out / "run.lock").exists()


def test_two_starts_at_once(folder: Path, out: Path, capsys: Captured) -> None:
    out.mkdir()
    with FileLock(out / "run.lock"):
        assert "another process is writing" in refused(capsys, flags(folder, out))
    assert main(flags(folder, out)) == 0


def test_a_folder_that_cannot_be_made_is_told_before_anything_is_loaded(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.setattr("training.data.sources.load", never)
    (tmp_path / "file").write_text("")
    out = tmp_path / "file" / "run"
    assert f"Not a directory: '{out}'" in refused(capsys, flags(folder, out))


def test_the_precision_is_decided_once(
    folder: Path, out: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict)
    assert main(flags(folder, out)) == 0
    assert json.loads((out / "config.json").read_text())["precision"] == "float32"
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": True})
    capsys.readouterr()
    assert main(["--out", str(out), "--resume", "--max-steps", "7"]) == 0
    assert "torch.float32" in capsys.readouterr().err
    said = refused(capsys, "--resume --max-steps 8 --precision auto", out=out)
    assert "precision: the run has float32, asked for bfloat16" in said


def test_few_pictures_are_augmented_and_a_run_stays_as_it_was(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def decided(out: Path, *flags: str) -> str:
        assert main([*flags, "--out", str(out)]) == 0
        _, info = load_generator(out / "generator.safetensors")
        settings = json.loads((out / "config.json").read_text())
        assert settings["diffaugment"] == info.provenance["diffaugment"]
        return str(settings["diffaugment"])

    few = tmp_path / "few"
    with caplog.at_level("INFO"):
        assert decided(few, *flags(folder, few)) == "on"
    assert caplog.text.count("12 different pictures are fewer than 2,000") == 1
    monkeypatch.setattr(start, "AUGMENTED_BELOW", 12)
    assert decided(few, "--resume", "--max-steps", "7") == "on"
    assert decided(tmp_path / "many", *flags(folder, tmp_path / "many")) == "off"


def test_a_folder_that_cannot_be_read_is_told(
    folder: Path, out: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    out.mkdir()
    listing = Path.iterdir

    def closed(path: Path) -> Any:
        if path == out:
            raise PermissionError(13, "Permission denied", str(path))
        return listing(path)

    monkeypatch.setattr(Path, "iterdir", closed)
    assert main(flags(folder, out)) == 1
    assert f"error: [Errno 13] Permission denied: '{out}'" in capsys.readouterr().err


def test_no_folder_for_temporary_files_is_told(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    def nowhere() -> str:
        raise FileNotFoundError(2, "No usable temporary directory found in ['/tmp']")

    monkeypatch.setattr("tempfile.gettempdir", nowhere)
    said = refused(capsys, flags(folder, tmp_path / "run", "--cache", "None"))
    assert "error: decoded pictures need a temporary folder: No usable" in said
    assert "set TMPDIR" in said
