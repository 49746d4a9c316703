"""What each variant changes, and that a command is done only where it is missing."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn

from tests.support.tiny_runs import TINY, journal, printed, refused
from training.data.avatars import load_avatars
from training.lab.ablations import VARIANTS
from training.step import new_networks

Captured = pytest.CaptureFixture[str]
WITHOUT = {
    "pooling": {"HalvingConv2d", "DoublingConv2d"},
    "norm-nowhere": {"BatchNorm2d"},
    "relu-in-d": {"LeakyReLU"},
}
WITH = {
    "pooling": {"MaxPool2d": 3, "Upsample": 3, "Conv2d": 6},
    "norm-everywhere": {"BatchNorm2d": 2},
    "relu-in-d": {"ReLU": 3},
    "fully-connected": {"BatchNorm2d": 2, "Conv2d": 2},
}


def kinds(*networks: nn.Module) -> Counter[str]:
    return Counter(type(module).__name__ for network in networks for module in network.modules())


@pytest.mark.parametrize("name", VARIANTS)
def test_a_variant_is_the_same_network_but_for_what_it_names(name: str) -> None:
    torch.manual_seed(0)
    config = replace(TINY, d_norm="batch", d_group=0)
    usual = kinds(*new_networks(config, 3))
    generator, discriminator = VARIANTS[name].networks(config, 3)
    found = kinds(generator, discriminator)
    assert not WITHOUT.get(name, set()) & found.keys()
    assert {kind: found[kind] - usual[kind] for kind in WITH.get(name, {})} == WITH.get(name, {})
    pictures = generator(torch.randn(4, TINY.nz))
    assert pictures.shape == (4, 3, 32, 32)
    assert discriminator(pictures).shape == (4,)
    fresh = [
        value for _, value in (*generator.named_parameters(), *discriminator.named_parameters())
    ]
    for value in fresh:  # as the paper's: N(0, 0.02), N(1, 0.02) or 0
        assert value.abs().max() < 0.2 or (value - 1).abs().max() < 0.2


@pytest.mark.usefixtures("quick")
def test_ablations_are_trained_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    few = partial(load_avatars, count=128)
    monkeypatch.setattr("training.data.sources.load_avatars", few)
    for name, less in (("SAMPLES", 64), ("BATCH", 4), ("WIDTH", 2), ("COLUMNS", 3)):
        monkeypatch.setattr(f"training.lab.ablations.{name}", less)
    words = "ablations --only guidelines nz-2 --max-steps 2"
    places = {"out": tmp_path / "rows.png", "runs": tmp_path / "runs"}
    first = printed(capsys, words, **places)
    assert list(first["rows"]) == ["real", "guidelines", "nz-2"]
    assert first["rows"]["nz-2"]["verdict"] == "healthy"
    assert 0 < first["rows"]["real"]["frechet"] < first["rows"]["guidelines"]["frechet"]
    with Image.open(places["out"]) as image:
        assert image.size == (3 * 66 + 2, 3 * 66 + 2)
    lines = journal(tmp_path / "runs" / "nz-2")
    assert printed(capsys, words, **places) == first
    assert journal(tmp_path / "runs" / "nz-2") == lines
    longer = printed(capsys, words.replace("--max-steps 2", "--max-steps 3"), **places)
    assert journal(tmp_path / "runs" / "nz-2")[-1]["step"] == 3
    assert longer["rows"]["real"] == first["rows"]["real"]
    monkeypatch.setattr("training.lab.ablations.WIDTH", 4)
    said = refused(capsys, words, **places)
    assert "is another run (ngf: the run has 2, asked for 4" in said


def test_a_variant_that_there_is_none_of(capsys: Captured) -> None:
    said = refused(capsys, "ablations --only poling")
    assert "--only poling: did you mean 'pooling'? known: guidelines, " in said
