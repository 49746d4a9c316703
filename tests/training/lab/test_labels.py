"""Labelled pictures of one's own, and what their classes are called."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from training.data.decode import PictureSpec
from training.lab import labels
from training.lab.arithmetic import Concept
from training.lab.commands import UsageError
from training.lab.labels import load_labelled, short_name

SPEC = PictureSpec(image_size=32, channels="3")


def picture(path: Path, level: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((40, 40, 3), level, np.uint8)).save(path)


def test_a_folder_a_class(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(labels, "LEAST", 2)
    for number, name in enumerate(("Blue Birds", "cats", "cats", "Blue Birds", "dogs")):
        picture(tmp_path / name / "deeper" / f"{number}.png", 10 * number)
    (tmp_path / "cats" / "notes.txt").write_text("no picture")
    found = load_labelled(tmp_path, SPEC)
    assert found.values == {"class": ("Blue Birds", "cats", "dogs")}
    assert found.labels["class"].tolist() == [0, 0, 1, 1, 2]
    assert found.images[:, 0, 0, 0].tolist() == [0, 30, 10, 20, 40]
    assert found.concepts() == {"blue-birds": Concept("class", 0), "cats": Concept("class", 1)}
    assert "notes.txt" in capsys.readouterr().err
    grey = load_labelled(tmp_path, PictureSpec(image_size=32, channels="1"))
    assert grey.images.shape == (5, 32, 32, 1)


def test_a_table_of_attributes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(labels, "LEAST", 1)
    for number in range(3):
        picture(tmp_path / "images" / f"{number}.png", number)
    table = tmp_path / "t.csv"
    rows = ["images/0.png,1,red,x", "images/1.png,-1,blue,x", "images/2.png,1,red,x"]
    table.write_text("\n".join(["file,Smiling,Colour,Same", *rows]))
    found = load_labelled(table, SPEC)
    assert found.labels["Colour"].tolist() == [1, 0, 1]
    assert found.concepts() == {
        "smiling": Concept("Smiling", 1),
        "colour-blue": Concept("Colour", 0),
        "colour-red": Concept("Colour", 1),
    }


@pytest.mark.parametrize(
    ("text", "words"),
    [("name,a\nx,1\n", "give file and one or more"), ("file,a\n0.png,1\n", "one class at most")],
)
def test_tables_that_say_nothing(tmp_path: Path, text: str, words: str) -> None:
    picture(tmp_path / "0.png", 0)
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(UsageError, match=words):
        load_labelled(tmp_path / "t.csv", SPEC)


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (("Très", "long " * 20), "tr-s-long-long-long-long-long-long-long"),
        (("5 O'Clock",), "is-5-o-clock"),
    ],
)
def test_names_are_short_and_plain(words: tuple[str, ...], name: str) -> None:
    assert short_name(words) == name
