"""The services of docker-compose.yml, run by podman-compose and reached through the proxy."""

from __future__ import annotations

import json
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests

from deploy.server import HOST, ROOT

ALICE, BOB = "alice-0123456789abcdef0123456789", "bob-0123456789abcdef0123456789"
PROJECT = "dcgantest"
FILES = [
    "-f",
    str(ROOT / "docker-compose.yml"),
    "-f",
    str(ROOT / "tests/container/compose.test.yml"),
]
ENGINE = """\
[containers]
default_ulimits = ["nofile=16384:16384", "nproc=4096:4096"]
[engine]
runtime = "runc"
"""


@dataclass(frozen=True)
class Stack:
    """Services of the running stack, by their names in docker-compose.yml."""

    folder: Path
    port: int
    environment: dict[str, str]

    def podman(self, *arguments: str, check: bool = True, given: str = "") -> str:
        """Run podman; gives what it printed on stdout, and fails with what it printed elsewhere."""
        how = {"env": self.environment, "input": given, "text": True, "timeout": 120}
        done = subprocess.run(["podman", *arguments], capture_output=True, **how)  # type: ignore[call-overload]
        assert done.returncode == 0 or not check, done.stderr
        return done.stdout

    def compose(self, *arguments: str) -> None:
        command = ["podman-compose", "-p", PROJECT, *FILES, *arguments]
        with (self.folder / "compose.log").open("ab") as log:
            how = {"env": self.environment, "stdout": log, "stderr": log, "timeout": 300}
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

    def python(self, code: str) -> str:
        """Run Python in the container of TorchServe; gives its stdout."""
        name = self.container("torchserve")
        return self.podman("exec", "-i", name, "/opt/venv/bin/python", "-", given=code)

    def logs(self, service: str) -> str:
        command = ["podman", "logs", self.container(service)]
        return subprocess.check_output(
            command, env=self.environment, stderr=subprocess.STDOUT, text=True
        )

    def call(self, method: str, path: str, key: str = ALICE, **options: Any) -> requests.Response:
        options = {"headers": {"X-API-Key": key} if key else {}, "timeout": 60, **options}
        options["verify"] = str(self.folder / "tls.crt")
        return requests.request(method, f"https://{HOST}:{self.port}{path}", **options)

    def predict(self, key: str = ALICE, **fields: Any) -> requests.Response:
        return self.call("POST", "/predictions/dcgan", key, json=fields)

    def wait_until_ready(self, timeout_s: float = 180) -> None:
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                if self.call("GET", "/healthz", key="").status_code == 200:
                    return
            except requests.RequestException:
                pass
            assert time.monotonic() < deadline, self.logs("torchserve")[-3000:]
            time.sleep(0.5)
