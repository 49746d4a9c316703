"""The server that does what a test says."""

from collections.abc import Iterator

import pytest

from tests.support.scripted import Scripted, scripted


@pytest.fixture
def server() -> Iterator[Scripted]:
    with scripted() as made:
        yield made
