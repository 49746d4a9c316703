"""A tiny network and the folder of its archive, exported once."""

from pathlib import Path

import pytest

from tests.support.tiny_models import tiny_generator, unpacked
from training.networks import Generator


@pytest.fixture(scope="session")
def generator() -> Generator:
    return tiny_generator()


@pytest.fixture(scope="session")
def model_dir(generator: Generator, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return unpacked(generator, tmp_path_factory.mktemp("model"))
