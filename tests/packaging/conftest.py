"""The Kubernetes manifests, rendered."""

import pytest

from tests.support.manifests import FOLDER, OVERLAYS, Manifest, rendered


@pytest.fixture(scope="package", params=["base", *OVERLAYS])
def manifests(request: pytest.FixtureRequest) -> list[Manifest]:
    return rendered(FOLDER / request.param)


@pytest.fixture(scope="package", params=OVERLAYS)
def overlay(request: pytest.FixtureRequest) -> list[Manifest]:
    return rendered(FOLDER / request.param)
