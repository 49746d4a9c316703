"""What a Generator was trained on, and what it is compared with."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.support.generators import photos, trained_on, weights
from tests.support.tiny_runs import flags, printed, refused
from training.__main__ import main
from training.data.batches import split
from training.lab import reals
from training.lab.evaluate import Evaluate
from training.weights import load_generator

Captured = pytest.CaptureFixture[str]


def reals_of(path: Path, count: int = 100, held_out: Path | None = None) -> reals.Reals:
    other = held_out and str(held_out)
    command = Evaluate(weights=path, cache=path.parent / "cache", held_out=other)
    return command.reals(load_generator(path)[1], count, None)


def test_what_a_run_held_out_is_the_reference(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reals, "LEAST_HELD_OUT", 4)
    folder = photos(tmp_path / "photos", 40)
    made = trained_on(folder) | {"held_out": 5, "batch_size": 4, "seed": 1}
    found = reals_of(weights(tmp_path, **made))
    assert sorted(found.rows) == split(np.arange(40), 5, 4, 1).held_out.tolist()
    assert not found.seen.any()
    assert np.array_equal(found.reference, found.trained_on[found.rows])
    assert found.described == "5 pictures that the run had held out from its training"
    others = {image.tobytes() for image in found.others(100)}
    assert len(others) == 35
    assert not others & {image.tobytes() for image in found.reference}


def test_training_pictures_join_the_few_that_a_run_held_out(tmp_path: Path) -> None:
    folder = photos(tmp_path / "photos", 40)
    made = trained_on(folder) | {"held_out": 256, "batch_size": 4, "seed": 1}
    found = reals_of(weights(tmp_path, **made))
    expected = split(np.arange(40), 256, 4, 1).held_out.tolist()
    assert sorted(found.rows[:5]) == expected  # an eighth
    assert found.seen.tolist() == [False] * 5 + [True] * 15
    assert len(set(found.rows.tolist())) == 20  # half of all
    assert found.described == (
        "5 pictures that the run had held out from its training and 15 random training pictures, "
        "for want of --held-out"
    )


def test_equal_pictures_are_one(tmp_path: Path) -> None:
    folder = photos(tmp_path / "photos", 40)
    for path in sorted(folder.iterdir()):
        shutil.copy(path, folder / f"again {path.name}")
    made = trained_on(folder) | {"held_out": 256, "batch_size": 4, "seed": 1}
    found = reals_of(weights(tmp_path, **made), count=5)
    assert len(found.different) == len({p.tobytes() for p in found.trained_on[found.different]})
    assert len(found.different) == 40
    assert set(found.rows) <= set(found.different)
    assert (~found.seen).sum() == 5
    assert len({*found.rows, *found.different[~np.isin(found.different, found.rows)]}) == 40


@pytest.mark.parametrize("same", [True, False])
def test_what_was_held_out_is_known_in_another_place(tmp_path: Path, same: bool) -> None:
    folder = photos(tmp_path / "photos", 40)
    made = trained_on(folder) | {"data": "elsewhere", "held_out": 5, "batch_size": 4, "seed": 1}
    path = weights(tmp_path, **made if same else made | {"digest": "0"})
    command = Evaluate(weights=path, data=str(folder), cache=None)
    found = command.reals(load_generator(path)[1], 5, None)
    assert found.seen.tolist() == [not same] * 5


def test_a_part_of_the_held_out_pictures_is_random(tmp_path: Path) -> None:
    """Folders are sorted by name, so by class where that begins it."""
    folder, unseen = photos(tmp_path / "photos", 8), tmp_path / "unseen"
    for name, colour in (("cat", "red"), ("dog", "blue")):
        (unseen / name).mkdir(parents=True)
        for i in range(20):
            Image.new("RGB", (32, 32), colour).save(unseen / name / f"{i}.png")
    found = reals_of(weights(tmp_path, data=str(folder)), count=16, held_out=unseen)
    assert len({image.tobytes() for image in found.reference}) == 2


@pytest.mark.usefixtures("quick")
def test_what_the_starting_weights_have_learned_from_is_looked_at_too(
    tmp_path: Path, capsys: Captured
) -> None:
    start: list[str] = []
    runs = [tmp_path / "0", tmp_path / "1"]
    for number, count in enumerate((24, 30)):
        data, run = photos(tmp_path / f"photos{number}", count, seed=number), runs[number]
        assert main(flags(data, run, "--max-steps", "1", "--cache", "None", *start)) == 0
        start = ["--start-from", str(runs[0] / "generator.safetensors")]
    path, unseen = runs[1] / "generator.safetensors", photos(tmp_path / "unseen", 9, seed=2)
    shutil.copy(tmp_path / "photos0" / "3.png", unseen)  # what the first of them was trained on
    found = reals_of(path, held_out=unseen)
    assert len(found.different) == 24 + 30
    assert found.seen.sum() == 1
    assert found.missing == []
    assert reals_of(path).described.startswith("4 pictures that the run had held out")

    (tmp_path / "photos0" / "3.png").unlink()
    found = reals_of(path, held_out=unseen)
    assert len(found.different) == 30
    (what,) = found.missing
    assert what == f"what {start[1]} was trained on, from which this run started"
    report = printed(capsys, "evaluate --samples 9 --cache None", weights=path, held_out=unseen)
    assert report["memorisation"]["verdict"].startswith("cannot be told: it was not compared with")
    assert f"copies of {what}" in report["left_out"]


def test_pictures_that_have_changed_since_are_missing(tmp_path: Path) -> None:
    folder = photos(tmp_path / "photos", 40)
    made = trained_on(folder)
    assert reals_of(weights(tmp_path, **made)).missing == []
    (folder / "7.png").unlink()
    (what,) = reals_of(weights(tmp_path, **made)).missing
    assert what.endswith(f"was trained on ({folder} holds others now)")


@pytest.mark.usefixtures("quick")
def test_pictures_are_decoded_once_for_training_and_all_commands(
    tmp_path: Path, decoded: list[int]
) -> None:
    cache, run = tmp_path / "cache", tmp_path / "run"
    folder = photos(tmp_path / "photos", 40)
    assert main(flags(folder, run, "--max-steps", "1")) == 0
    kept = ["--weights", str(run / "generator.safetensors"), "--cache", str(cache)]
    assert main(["evaluate", *kept, "--samples", "8"]) == 0
    assert main(["compare", *kept, "--count", "4", "--out", str(tmp_path / "c.png")]) == 0
    assert main(["neighbours", *kept, "--samples", "8", "--out", str(tmp_path / "n.png")]) == 0
    assert main(["filters", "--checkpoint", str(run), "--out", str(tmp_path / "f.png")]) == 0
    assert len(decoded) == 40


def test_weights_of_unknown_origin_need_data(tmp_path: Path, capsys: Captured) -> None:
    said = refused(capsys, "evaluate", weights=weights(tmp_path))
    assert "does not say what it was trained on; give --data" in said
