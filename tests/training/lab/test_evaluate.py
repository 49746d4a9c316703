"""``python -m training evaluate`` on tiny weights: labelled avatars, and pictures of a user."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from training.__main__ import main
from training.data.batches import identity_of, split
from training.data.sources import load_folder
from training.lab import reals
from training.lab.attributes import by_attribute, clean_tiles, histogram_distance
from training.lab.classifier import classify, fit
from training.lab.judge import Origin, load_or_fit
from training.networks import new_generator
from training.weights import load_generator, save_generator

BACKGROUND = "#c8d4e0"
EVERY_NUMBER = {"name", "value", "real", "samples", "reference", "extractor", "resize"}


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("judge") / "judge.safetensors"
    load_or_fit(path, Origin(32, BACKGROUND, 999, 256))
    return path


def weights(folder: Path, **made: Any) -> Path:
    torch.manual_seed(0)
    path = folder / "g.safetensors"
    save_generator(path, new_generator(6, 2, 3, 32), {"background": BACKGROUND, **made})
    return path


def photos(folder: Path, count: int) -> Path:
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(count):
        small = rng.integers(0, 256, (4, 4, 3), np.uint8)
        Image.fromarray(small).resize((40, 40)).save(folder / f"{i}.png")
    return folder


def evaluated(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[dict[str, Any], str]:
    cache = Path(arguments[arguments.index("--weights") + 1]).parent / "cache"
    assert main(["evaluate", "--cache", str(cache), *arguments]) == 0
    told = capsys.readouterr()
    return json.loads(told.out), told.err


def test_avatars(tmp_path: Path, judge: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = weights(tmp_path, data="avatars", pictures=128, seed=999)
    report, table = evaluated(
        capsys, "--weights", str(path), "--samples", "32", "--classifier", str(judge)
    )
    measures = {m["name"]: m for m in report["measures"]}
    assert all(m.keys() == EVERY_NUMBER for m in measures.values())
    assert not any("FID" in name or "KID" in name for name in measures)
    assert any("FID" in line for line in report["left_out"])
    frechet = measures["Fréchet distance, in features"]
    assert frechet["extractor"].startswith("classifier trained on 128 labelled avatars")
    assert "biased" in frechet["extractor"]  # 32 pictures, 128 dimensions
    # An untrained Generator: far from the real pictures, and all alike.
    assert frechet["value"] > 3 * frechet["real"]
    assert measures["precision, in features"]["value"] < 0.2
    similar = measures["MS-SSIM between samples"]
    assert similar["value"] > similar["real"]
    assert report["attributes"]["by_attribute"]["body"]["classes"] == 15
    assert report["attributes"]["by_attribute"]["body"]["classes_seen"] <= 3
    assert report["clean_tiles"]["near_real"]["tiles"] == 0
    assert report["memorisation"]["verdict"].startswith("no copying seen")
    assert "| Fréchet distance, in features |" in table
    assert "clean tiles" in table
    body = report["attributes"]["by_attribute"]["body"]["most_too_often"]
    assert f"| {body['class']}: {body['share_of_samples']:.1%} (real " in table


def test_pictures_of_a_user(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = photos(tmp_path / "photos", 40)
    path = weights(tmp_path, data=str(folder))
    report, table = evaluated(capsys, "--weights", str(path), "--samples", "16")
    assert "attributes" not in report
    assert "clean_tiles" not in report
    assert any("knows RGB avatars only" in line for line in report["left_out"])
    names = [m["name"] for m in report["measures"]]
    assert "MS-SSIM between samples" in names
    assert "sliced Wasserstein distance x 1000, 32 px" in names
    assert "16 of the training pictures, by lot" in report["measures"][0]["reference"]
    assert report["memorisation"]["trained_on"] == 40
    assert "features" not in report["memorisation"]
    assert (report["memorisation"]["samples"], report["memorisation"]["references"]) == (16, 16)
    assert report["memorisation"]["verdict"].startswith("cannot be told: 16 of the 16 real")
    assert "Left out:" in table

    unseen = photos(tmp_path / "unseen", 10)
    report, table = evaluated(
        capsys, "--weights", str(path), "--samples", "16", "--held-out", str(unseen)
    )
    assert report["measures"][0]["reference"] == f"10 pictures of {unseen}"
    assert report["measures"][0]["samples"] == 10
    assert (report["memorisation"]["samples"], report["memorisation"]["references"]) == (16, 10)
    assert "16 samples, and 10 real pictures (from 10 pictures of" in table


def test_a_result_beside_an_earlier_one(
    tmp_path: Path, judge: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = weights(tmp_path, data="avatars", pictures=128, seed=999, start_from="old.safetensors")
    flags = ["--weights", str(path), "--samples", "16", "--classifier", str(judge)]
    report, _ = evaluated(capsys, *flags)
    assert any("old.safetensors" in line for line in report["left_out"])
    report["measures"][0]["value"] = 4321
    (tmp_path / "earlier.json").write_text(json.dumps(report))
    _, err = evaluated(
        capsys, *flags, "--beside", str(tmp_path / "earlier.json"),
        "--markdown", str(tmp_path / "table.md"),
    )  # fmt: skip
    assert "|" not in err
    table = (tmp_path / "table.md").read_text()
    assert "|  | before | now | real |" in table
    assert "| Fréchet distance, in features | 4321 |" in table


def reals_of(path: Path, count: int = 100, held_out: Path | None = None) -> reals.Reals:
    _, info = load_generator(path)
    other = held_out and str(held_out)
    return reals.load_reals(
        info, path, None, Path("data"), path.parent / "cache", other, count, None
    )


def test_what_a_run_held_out_is_the_reference(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reals, "LEAST_HELD_OUT", 4)
    folder = photos(tmp_path / "photos", 40)
    made = {"data": str(folder), "pictures": 40, "held_out": 5, "batch_size": 4, "seed": 1}
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
    made = {"data": str(folder), "pictures": 40, "held_out": 256, "batch_size": 4, "seed": 1}
    found = reals_of(weights(tmp_path, **made))
    expected = split(np.arange(40), 256, 4, 1).held_out.tolist()
    assert sorted(found.rows[:5]) == expected  # an eighth
    assert found.seen.tolist() == [False] * 5 + [True] * 15
    assert len(set(found.rows.tolist())) == 20  # half of all
    assert found.described == (
        "5 pictures that the run had held out from its training and 15 of the training pictures, "
        "by lot for want of --held-out"
    )


@pytest.mark.parametrize("told", [True, False])
def test_equal_pictures_are_one(tmp_path: Path, told: bool) -> None:
    """Of an earlier version, which does not tell it, some held-out ones were trained on too."""
    folder = photos(tmp_path / "photos", 40)
    for path in sorted(folder.iterdir()):
        shutil.copy(path, folder / f"again {path.name}")
    made = {"data": str(folder), "pictures": 80, "held_out": 256, "batch_size": 4, "seed": 1}
    if told:
        made["different"] = 40
    found = reals_of(weights(tmp_path, **made), count=5)
    assert len(found.different) == len({p.tobytes() for p in found.trained_on[found.different]})
    assert len(found.different) == 40
    assert set(found.rows) <= set(found.different)
    parts = split(np.arange(80), 256, 4, 1)
    seen = {image.tobytes() for image in found.trained_on[parts.train]}
    unseen = {image.tobytes() for image in found.trained_on[parts.held_out]} - seen
    assert (~found.seen).sum() == (5 if told else len(unseen))
    assert len({*found.rows, *found.different[~np.isin(found.different, found.rows)]}) == 40


@pytest.mark.parametrize("same", [True, False])
def test_what_was_held_out_is_known_in_another_place(tmp_path: Path, same: bool) -> None:
    folder = photos(tmp_path / "photos", 40)
    made = {"data": "elsewhere", "pictures": 40, "held_out": 5, "batch_size": 4, "seed": 1}
    images = load_folder(
        folder, image_size=32, channels="auto", background=BACKGROUND, workers=1
    ).images
    path = weights(tmp_path, **made, digest=identity_of(images).digest if same else "0")
    _, info = load_generator(path)
    found = reals.load_reals(info, path, str(folder), Path("data"), None, None, 5, None)
    assert found.seen.tolist() == [not same] * 5


def test_a_part_of_the_held_out_pictures_is_drawn_by_lot(tmp_path: Path) -> None:
    """Folders are sorted by name, so by class where that begins it."""
    folder, unseen = photos(tmp_path / "photos", 8), tmp_path / "unseen"
    for name, colour in (("cat", "red"), ("dog", "blue")):
        (unseen / name).mkdir(parents=True)
        for i in range(20):
            Image.new("RGB", (32, 32), colour).save(unseen / name / f"{i}.png")
    found = reals_of(weights(tmp_path, data=str(folder)), count=16, held_out=unseen)
    assert len({image.tobytes() for image in found.reference}) == 2


def test_pictures_are_decoded_once_for_training_and_all_commands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cache, run = tmp_path / "cache", tmp_path / "run"
    folder = photos(tmp_path / "photos", 40)
    assert main(["--data", str(folder), "--out", str(run), "--batch-size", "4", "--image-size",
                 "32", "--nz", "6", "--ngf", "2", "--ndf", "2", "--max-steps", "1",
                 "--cache", str(cache)]) == 0  # fmt: skip

    def again(*_: object) -> None:
        raise AssertionError("decoded again")

    monkeypatch.setattr("training.data.sources.decode", again)
    kept = ["--weights", str(run / "generator.safetensors"), "--cache", str(cache)]
    assert main(["evaluate", *kept, "--samples", "8"]) == 0
    assert main(["compare", *kept, "--count", "4", "--out", str(tmp_path / "c.png")]) == 0
    assert main(["neighbours", *kept, "--samples", "8", "--out", str(tmp_path / "n.png")]) == 0
    assert main(["filters", "--checkpoint", str(run), "--out", str(tmp_path / "f.png")]) == 0
    capsys.readouterr()


BAD = [
    (["--samples", "4"], "--samples is 4; it must be >= 8"),
    (["--weights", "absent.safetensors"], "absent.safetensors does not exist"),
    (["--beside", "absent.json"], "is no result of this command"),
    (["--markdown", "table.txt"], "give .md"),
    (["--data", "absent"], "no data 'absent'"),
    (["--inception-weights", "absent.pth"], "absent.pth cannot be read"),
]


@pytest.mark.parametrize(("arguments", "words"), BAD)
def test_bad_input_is_told(
    arguments: list[str], words: str, tmp_path: Path, judge: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    path = weights(tmp_path, data="avatars", pictures=64, seed=999)
    monkeypatch.chdir(tmp_path)
    start = ["evaluate", "--weights", str(path), "--samples", "16", "--classifier", str(judge)]
    assert main([*start, *arguments]) == 2
    told = capsys.readouterr()
    assert words in told.err
    assert told.out == ""


def test_weights_of_unknown_origin_need_data(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", "--weights", str(weights(tmp_path))]) == 2
    assert "does not say what it was trained on; give --data" in capsys.readouterr().err


def test_an_unknown_command_is_bad_usage(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["evaluat"])
    assert stopped.value.code == 2
    assert "evaluate" in capsys.readouterr().err


def test_help_tells_of_the_other_commands(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["--help"])
    assert stopped.value.code == 0
    assert "python -m training evaluate, walk" in " ".join(capsys.readouterr().out.split())


def test_train_may_be_named(capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--dry-run", "--image-size", "32", "--ngf", "2", "--ndf", "2"]
    assert main(["train", *flags]) == main(flags) == 0
    first, second = capsys.readouterr().out.split('{\n  "data"')[1:]
    assert first == second


def test_the_judge_learns_a_colour_and_tells_it() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 512)
    images = rng.integers(0, 60, (512, 16, 16, 3)).astype(np.uint8)
    images[..., 0] += (labels * 150).astype(np.uint8)[:, None, None]
    classifier = fit(images[:448], {"red": labels[:448]}, epochs=2, seed=0)
    told = classify(classifier, images[448:])["red"]
    assert told.shape == (64, 2)
    assert (told.argmax(1) == labels[448:]).mean() > 0.95


def sure_of(classes: list[int], surely: list[bool]) -> np.ndarray[Any, np.dtype[np.float32]]:
    told = np.full((len(classes), 4), 0.1, np.float32)
    told[np.arange(len(classes)), classes] = np.where(surely, 0.95, 0.7)
    return told


def test_histograms() -> None:
    a, b = sure_of([0, 0, 1, 1], [True] * 4), sure_of([0, 0, 0, 2], [True] * 4)
    assert histogram_distance(a, a) == 0
    assert histogram_distance(a, b) == 0.5


def test_the_classes_that_are_farthest_from_their_share() -> None:
    labels = np.array([0, 0, 1, 1, 2, 2, 3, 3])
    real = sure_of(labels.tolist(), [True] * 8)
    samples = sure_of([0, 0, 0, 3], [True] * 4)
    found = by_attribute({"fur": samples}, {"fur": real}, {"fur": labels})["fur"]
    assert found["most_too_often"] == {
        "class": 0, "share_of_samples": 0.75, "share_of_real": 0.25,
    }  # fmt: skip
    assert found["most_too_seldom"] == {
        "class": 1, "share_of_samples": 0.0, "share_of_real": 0.25,
    }  # fmt: skip


def test_tiles_are_clean_as_real_pictures_are() -> None:
    real = {"eyes": sure_of([0] * 100, [True] * 100), "fur": sure_of([0] * 100, [False] * 100)}
    samples = {
        "eyes": sure_of([1] * 80, [True] * 60 + [False] * 20),
        "fur": sure_of([1] * 80, [False] * 80),
    }
    usual = np.arange(100, dtype=np.float32)
    distances = np.repeat(np.array([50, 500], np.float32), 40)
    found = clean_tiles(samples, real, distances, usual)
    assert found["recognised_by"] == ["eyes"]  # fur is not even recognised on real pictures
    assert found["of"] == 64
    assert found["recognised"] == {"tiles": 60, "share_of_samples": 0.75, "share_of_real": 1.0}
    assert found["near_real"] == {"tiles": 40, "share_of_samples": 0.5, "share_of_real": 0.99}
