"""``python -m training evaluate`` on tiny weights: labelled avatars, and pictures of a user."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open

from deploy.server import ROOT
from tests.support.generators import photos, trained_on, trained_on_avatars, weights
from training.__main__ import main
from training.files import sha256_of
from training.lab import judge
from training.lab.evaluate import markdown, read_result

Captured = pytest.CaptureFixture[str]

EVERY_NUMBER = {"name", "value", "real", "samples", "reference", "extractor", "resize"}


@pytest.fixture(scope="module", autouse=True)
def quick_judge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(judge, "KEPT", tmp_path_factory.mktemp("judges"))
        patched.setattr(judge, "PICTURES", 256)
        yield


def evaluated(capsys: Captured, *arguments: str) -> tuple[dict[str, Any], str]:
    cache = Path(arguments[arguments.index("--weights") + 1]).parent / "cache"
    assert main(["evaluate", "--cache", str(cache), *arguments]) == 0
    printed = capsys.readouterr()
    return json.loads(printed.out), printed.err


def cells(table: str, first: str) -> list[str]:
    """The first row of Markdown tables that begins so."""
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()]
    return next(row for row in rows if row and row[0] == first)


def test_avatars(tmp_path: Path, capsys: Captured) -> None:
    path = weights(tmp_path, **trained_on_avatars(128))
    report, table = evaluated(capsys, "--weights", str(path), "--samples", "32")
    measures = {m["name"]: m for m in report["measures"]}
    assert all(m.keys() == EVERY_NUMBER for m in measures.values())
    assert not any("FID" in name or "KID" in name for name in measures)
    assert any("FID" in line for line in report["left_out"])
    frechet = measures["Fréchet distance, in features"]
    assert frechet["extractor"].startswith("classifier trained on 256 labelled avatars")
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
    assert cells(table, "Fréchet distance, in features")[1] == f"{frechet['value']:g}"
    assert "clean tiles" in table
    body = report["attributes"]["by_attribute"]["body"]["most_too_often"]
    assert f"| {body['class']}: {body['share_of_samples']:.1%} (real " in table


def test_pictures_of_a_user(tmp_path: Path, capsys: Captured) -> None:
    folder = photos(tmp_path / "photos", 40)
    path = weights(tmp_path, **trained_on(folder))
    report, table = evaluated(capsys, "--weights", str(path), "--samples", "16")
    assert "attributes" not in report
    assert "clean_tiles" not in report
    assert any("knows RGB avatars only" in line for line in report["left_out"])
    names = [m["name"] for m in report["measures"]]
    assert "MS-SSIM between samples" in names
    assert "sliced Wasserstein distance x 1000, 32 px" in names
    assert "16 random training pictures" in report["measures"][0]["reference"]
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


def test_fewer_training_pictures_than_real_ones_to_compare_with(
    tmp_path: Path, capsys: Captured
) -> None:
    """As many of each are measured; here some of the real ones were trained on after all."""
    folder, unseen = photos(tmp_path / "photos", 8), photos(tmp_path / "unseen", 14, seed=1)
    for name in ("3.png", "5.png"):
        shutil.copy(folder / name, unseen / f"z{name}")
    path = weights(tmp_path, data=str(folder))
    given = ["--weights", str(path), "--samples", "16", "--held-out", str(unseen)]
    report, _ = evaluated(capsys, *given)
    assert {measure["samples"] for measure in report["measures"]} == {6}


def test_a_result_beside_an_earlier_one(tmp_path: Path, capsys: Captured) -> None:
    path = weights(
        tmp_path, **trained_on_avatars(128) | {"inherited": [{"weights": "old.safetensors"}]}
    )
    flags = ["--weights", str(path), "--samples", "16"]
    report, _ = evaluated(capsys, *flags)
    assert any("old.safetensors" in line for line in report["left_out"])
    assert report["memorisation"]["verdict"].startswith("cannot be told")
    report["measures"][0]["value"] = 4321
    (tmp_path / "earlier.json").write_text(json.dumps(report))
    _, err = evaluated(
        capsys,
        *flags,
        "--beside",
        str(tmp_path / "earlier.json"),
        "--markdown",
        str(tmp_path / "table.md"),
    )
    assert "|" not in err
    table = (tmp_path / "table.md").read_text()
    assert cells(table, "")[:4] == ["", "before", "now", "real"]
    assert cells(table, "Fréchet distance, in features")[1] == "4321"


def test_the_documents_say_what_was_measured() -> None:
    now, before = (
        read_result(ROOT / "docs" / "evaluation" / f"{name}.json")
        for name in ("default", "six-runs")
    )
    assert now["weights_sha256"] == sha256_of(ROOT / "model_store" / "generator.safetensors")
    card = (ROOT / "model_store" / "MODEL_CARD.md").read_text("utf-8")
    assert f"<!-- evaluate -->\n{markdown(now, before)}\n<!-- /evaluate -->" in card
    page = (ROOT / "docs" / "training.md").read_text("utf-8")
    for column, result in ((1, now), (2, before)):
        values = {m["name"]: m["value"] for m in result["measures"]}
        by_attribute = result["attributes"]["by_attribute"].values()
        histograms = [found["histogram_distance"] for found in by_attribute]
        frechet, recall = values["Fréchet distance, in features"], values["recall, in features"]
        for row, cell in (
            ("judge sure of body", f"{result['clean_tiles']['recognised']['tiles']} of 64"),
            ("as near to real", f"{result['clean_tiles']['near_real']['tiles']} of 64"),
            ("histogram distance", f"{sum(histograms) / len(histograms):.3f}"),
            ("Fréchet distance; recall", f"{frechet:.3f}; {recall:.3f}"),
            ("MS-SSIM between samples |", f"{values['MS-SSIM between samples']:.3f}"),
        ):
            (line,) = [line for line in page.splitlines() if line.startswith(f"| {row}")]
            assert line.split("|")[1 + column].strip() == cell
    with safe_open(ROOT / "model_store" / "directions.safetensors", "pt") as file:
        said = file.metadata()
    assert said["weights_sha256"] == now["weights_sha256"]
    for name, about in json.loads(said["directions"]).items():
        learned = "success" in about
        share = f"{about['success']:.0%}" if learned else f"{about['share_of_strength']:.1%}"
        assert cells(card, f"`{name}`")[1] == share
