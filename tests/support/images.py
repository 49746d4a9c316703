"""Images for the tests, made without a registry: a Debian base by debootstrap, then ours.

What differs from a machine with a registry: the base is made here, Prometheus comes from Debian,
and pip uses what this machine's own pip is set to. Layers are kept between runs.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from deploy.server import ROOT

BASE = "localhost/dcgan-test-debian:bookworm"
TORCHSERVE = "localhost/dcgan-test-torchserve"
PROXY = "localhost/dcgan-test-proxy"
PROMETHEUS = "localhost/dcgan-test-prometheus"
HERE = ROOT / "tests" / "container"
_CERTIFICATES = "/etc/pip-certificates.crt"


def build_all(log: Path) -> None:
    """Build the four images; ``log`` gets what the builds print."""
    with log.open("ab") as output:
        if _run(["podman", "image", "exists", BASE], output, check=False):
            _debootstrap(output)
        _build(PROXY, ROOT / "deploy" / "Dockerfile.proxy", ROOT, output)
        _build(PROMETHEUS, HERE / "Dockerfile.prometheus", HERE, output)
        with tempfile.TemporaryDirectory() as folder:
            _build(
                TORCHSERVE,
                ROOT / "deploy" / "Dockerfile",
                ROOT,
                output,
                *_pip(Path(folder) / "pip.conf"),
            )


def _run(command: Sequence[str | Path], output: object, *, check: bool = True) -> int:
    done = subprocess.run(command, stdout=output, stderr=output, check=False)  # type: ignore[call-overload]
    if check and done.returncode:
        raise RuntimeError(f"{command[0]} {command[1]} failed ({done.returncode}); see the log")
    return int(done.returncode)


def _build(tag: str, file: Path, context: Path, output: object, *more: str) -> None:
    # The default isolation wants cgroups of one version; chroot needs none.
    command = ["podman", "build", "--isolation", "chroot", "--network", "host", "--tag", tag]
    command += ["--build-arg", f"DEBIAN={BASE}", *more, "--file", str(file), str(context)]
    _run(command, output)


def _debootstrap(output: object) -> None:
    sources = Path("/etc/apt/sources.list.d/debian.sources")
    found = re.search(r"^URIs: *(\S+)", sources.read_text() if sources.exists() else "", re.M)
    mirror = found.group(1) if found else "http://deb.debian.org/debian"
    with tempfile.TemporaryDirectory() as folder:
        root, archive = Path(folder) / "root", Path(folder) / "root.tar"
        _run(["debootstrap", "--variant=minbase", "bookworm", root, mirror], output)
        _run(["tar", "-C", root, "-cf", archive, "."], output)
        _run(["podman", "import", archive, BASE], output)


def _pip(conf: Path) -> list[str]:
    """Build options that let pip in the build see what pip on this machine sees."""
    environment = {**os.environ, "PIP_CONFIG_FILE": ""}
    command = ["python3", "-m", "pip", "config", "list"]
    listed = subprocess.check_output(command, env=environment, text=True)
    settings = dict(re.findall(r"^(?:global|:env:)\.([\w-]+)='(.*)'$", listed, re.MULTILINE))
    options = []
    if certificates := settings.pop("cert", None):
        options += ["--volume", f"{certificates}:{_CERTIFICATES}:ro"]
    kept = {
        name: settings[name]
        for name in ("index-url", "extra-index-url", "find-links", "constraint")
        if name in settings
    } | ({"cert": _CERTIFICATES} if certificates else {})
    for path in re.findall(r"(?:file://)?(/[\w./-]+)", " ".join(kept.values())):
        # The pages of an index on this disk point to files beside it.
        seen = Path(path).parent if Path(path).name == "simple" else Path(path)
        if seen.exists():
            options += ["--volume", f"{seen}:{seen}:ro"]
    lines = [f"{name} = {value}" for name, value in kept.items()]
    conf.write_text("\n".join(["[global]", *lines, ""]))
    options += ["--volume", f"{conf}:/etc/pip.conf:ro"]
    for folder in settings.get("find-links", "").split():
        # PyTorch's own index may be out of reach; a CPU build that lies here will do.
        for wheel in Path(folder).glob("torch-*+cpu-cp311-*.whl"):
            version = wheel.name.split("-")[1]
            options += ["--build-arg", f"TORCH=torch=={version}"]
            options += ["--build-arg", "TORCH_INDEX_URL=https://pypi.org/simple"]
    return options


def missing() -> str:
    """Why the containers cannot be run here; empty if they can."""
    tools = ("podman", "podman-compose", "runc", "catatonit", "iptables", "debootstrap")
    absent = [
        tool
        for tool in tools
        if not (shutil.which(tool) or Path(f"/usr/libexec/podman/{tool}").exists())
    ]
    if absent:
        return (
            f"needs {', '.join(absent)}: apt-get install podman podman-compose runc catatonit "
            "iptables netavark aardvark-dns debootstrap"
        )
    return "" if os.geteuid() == 0 else "needs root, for debootstrap and networks"
