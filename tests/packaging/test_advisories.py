"""The pins against the versions that docs/operations/security.md says advisories are fixed in."""

import importlib.resources
import re
import zipfile
from pathlib import Path

import pytest
from packaging.version import Version

from deploy.server import ROOT
from tests.support.documents import text_of

TEXT = text_of("docs/operations/security.md")
PINS = dict(re.findall(r"^([\w.-]+)==(\S+)$", text_of("requirements.txt"), re.MULTILINE))
FIXED = re.findall(r"^\| ([\w-]+) \| (CVE-[\d-]+) \| (\d[\d.]+) \|", TEXT, re.MULTILINE)


def test_there_is_a_list() -> None:
    assert {"torchserve", "torch", "onnx"} == {package for package, _, _ in FIXED}


@pytest.mark.parametrize(("package", "advisory", "fixed_in"), FIXED)
def test_the_pin_is_not_older_than_the_fix(package: str, advisory: str, fixed_in: str) -> None:
    assert Version(PINS[package]) >= Version(fixed_in), advisory


def test_every_package_is_pinned() -> None:
    lines = text_of("requirements.txt").splitlines()
    named = [line for line in lines if line and not line.startswith("#")]
    assert len(named) == len(PINS)


def test_the_version_of_netty_is_the_one_that_is_told() -> None:
    jar = importlib.resources.files("ts") / "frontend" / "model-server.jar"
    with zipfile.ZipFile(str(jar)) as opened:
        text = opened.read("META-INF/io.netty.versions.properties").decode()
    versions = set(re.findall(r"^netty-codec-http\.version=(\S+?)\.Final$", text, re.MULTILINE))
    told = re.findall(r"\*\*Netty ([\d.]+)\*\*", TEXT)
    assert versions == set(told)


def test_every_test_file_that_is_named_exists() -> None:
    named = set(re.findall(r"`(?:tests/\w+/)?(test_\w+\.py)`", TEXT))
    assert named
    assert named <= {path.name for path in Path(ROOT / "tests").rglob("test_*.py")}
