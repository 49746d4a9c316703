"""The services of docker-compose.yml, run by podman-compose and reached through the proxy.

Their images are made without a registry: a Debian base by debootstrap, then ours. What differs from
a machine with a registry: Prometheus comes from Debian, and pip uses what this machine's own pip is
set to. Layers are kept between runs.
"""

import contextlib
import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests

from deploy.server import ROOT
from tests.support import live
from tests.support.proxies import Proxy

PROJECT = "dcgantest"
HERE = ROOT / "tests" / "container"
FILES = ["-f", str(ROOT / "docker-compose.yml"), "-f", str(HERE / "compose.test.yml")]
BASE = "localhost/dcgan-test-debian:bookworm"
TORCHSERVE = "localhost/dcgan-test-torchserve"
PROXY = "localhost/dcgan-test-proxy"
PROMETHEUS = "localhost/dcgan-test-prometheus"
_CERTIFICATES = "/etc/pip-certificates.crt"
ENGINE = """\
[containers]
default_ulimits = ["nofile=16384:16384", "nproc=4096:4096"]
[engine]
runtime = "runc"
"""


@dataclass(frozen=True)
class Stack(Proxy):
    """The running proxy and what is behind it; services by their names in docker-compose.yml."""

    def podman(self, *arguments: str, check: bool = True, given: str = "") -> str:
        """Run podman; gives what it printed on stdout, and fails with what it printed elsewhere."""
        how = {"env": self.variables, "input": given, "text": True, "timeout": 120}
        done = subprocess.run(["podman", *arguments], capture_output=True, **how)  # type: ignore[call-overload]
        assert done.returncode == 0 or not check, done.stderr
        return done.stdout

    def compose(self, *arguments: str) -> None:
        command = ["podman-compose", "-p", PROJECT, *FILES, *arguments]
        with (self.folder / "compose.log").open("ab") as log:
            how = {"env": self.variables, "stdout": log, "stderr": log, "timeout": 300}
            subprocess.run(command, cwd=ROOT, check=True, **how)  # type: ignore[call-overload]

    def container(self, service: str) -> str:
        return f"{PROJECT}_{service}_1"

    def inspect(self, service: str) -> Any:
        return json.loads(self.podman("inspect", self.container(service)))[0]

    def address(self, service: str, network: str) -> str:
        networks = self.inspect(service)["NetworkSettings"]["Networks"]
        return str(networks[f"{PROJECT}_{network}"]["IPAddress"])

    def inside(self, service: str, *command: str, check: bool = True) -> str:
        return self.podman("exec", self.container(service), *command, check=check)

    def python(self, code: str, check: bool = True) -> str:
        """Run Python in the container of TorchServe; gives its stdout."""
        command = ("exec", "-i", self.container("torchserve"), "/opt/venv/bin/python", "-")
        return self.podman(*command, given=code, check=check)

    def logs(self, service: str) -> str:
        command = ["podman", "logs", self.container(service)]
        return subprocess.check_output(
            command, env=self.variables, stderr=subprocess.STDOUT, text=True
        )

    def wait_until_ready(self) -> None:
        live.wait(self._is_ready, 180)

    def _is_ready(self) -> bool:
        with contextlib.suppress(requests.RequestException):
            return self.call("GET", "/healthz").ok
        return False


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
    path = f"{os.environ['PATH']}:/usr/libexec/podman"
    if absent := [tool for tool in tools if not shutil.which(tool, path=path)]:
        return f"needs {', '.join(absent)}: make test-tools"
    return "" if os.geteuid() == 0 else "needs root, for debootstrap and networks"
