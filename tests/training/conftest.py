"""Tiny runs and odd pictures, for the tests that ask for them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support.odd_pictures import write_odd_folder, write_odd_zip
from tests.support.tiny_runs import noise_folder, noise_pictures, shorten
from training.data.decode import Pictures, decode


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Runs that do little beside their updates, on one thread."""
    shorten(monkeypatch)
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # as in ``spawn``: it can change the last bits of a sum
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def pictures() -> Pictures:
    return noise_pictures()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same kind of pictures as files."""
    return noise_folder(tmp_path_factory.mktemp("pictures"))


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """Where a run goes."""
    return tmp_path / "run"


@pytest.fixture
def odd_folder(tmp_path: Path) -> Path:
    return write_odd_folder(tmp_path / "odd")


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One entry a picture that is decoded from here on."""
    calls: list[int] = []

    def count_and_decode(*arguments: Any) -> Any:
        calls.append(1)
        return decode(*arguments)

    monkeypatch.setattr("training.data.sources.decode", count_and_decode)
    return calls


@pytest.fixture
def odd_zip(tmp_path: Path) -> Path:
    return write_odd_zip(tmp_path / "odd.zip")
