"""The Kubernetes manifests as kustomize renders them, for the tests."""

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.server import ROOT
from tests.support.documents import text_of, yaml_of

Manifest = dict[str, Any]
FOLDER = ROOT / "deploy" / "kubernetes"
OVERLAYS = ("overlays/cpu", "overlays/gpu")
needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="needs promtool: apt-get install prometheus"
)
# The pinned package's, so that everybody renders with the same one.
_KUBECTL = shutil.which("kubectl", path=str(Path(sys.executable).parent)) or "kubectl"


def kustomize(folder: Path) -> subprocess.CompletedProcess[str]:
    """``kubectl kustomize FOLDER``, which talks to no cluster."""
    return subprocess.run(
        [_KUBECTL, "kustomize", str(folder)], capture_output=True, text=True, check=False
    )


def rendered(folder: Path) -> list[Manifest]:
    """The documents that ``kubectl apply --kustomize FOLDER`` would send."""
    done = kustomize(folder)
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


def promtool(*words: str | Path) -> str:
    """Prometheus' own tool, which has to find nothing wrong; gives what it prints."""
    done = subprocess.run(["promtool", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def declared_metrics() -> set[str]:
    """The series of TorchServe and the handler that handler/metrics.yaml declares."""
    found = set()
    for block in yaml_of("handler/metrics.yaml").values():
        for kind, metrics in block.items():
            parts = ("_sum", "_count", "_bucket") if kind == "histogram" else ("",)
            found |= {metric["name"] + part for metric in metrics for part in parts}
    return found


def only(manifests: list[Manifest], kind: str, name: str = "dcgan") -> Manifest:
    """The one document of that kind and name; a generator's hash may follow the name."""
    found = [
        m
        for m in manifests
        if m["kind"] == kind
        and (m["metadata"]["name"] == name or m["metadata"]["name"].rpartition("-")[0] == name)
    ]
    assert len(found) == 1, (kind, name, found)
    return found[0]


def pod(manifests: list[Manifest]) -> Manifest:
    """The spec of the Deployment's pods."""
    spec: Manifest = only(manifests, "Deployment")["spec"]["template"]["spec"]
    return spec


def container(manifests: list[Manifest], name: str) -> Manifest:
    found: list[Manifest] = [c for c in pod(manifests)["containers"] if c["name"] == name]
    assert len(found) == 1
    return found[0]


def ports(manifests: list[Manifest]) -> dict[str, int]:
    """Name -> number of every port of the pod's containers."""
    return {
        port["name"]: port["containerPort"]
        for each in pod(manifests)["containers"]
        for port in each.get("ports", [])
    }


def environment(manifests: list[Manifest], name: str) -> dict[str, str]:
    """Variables of a container, from its ConfigMaps and its own list."""
    each = container(manifests, name)
    found: dict[str, str] = {}
    for source in each.get("envFrom", []):
        found |= _named(manifests, "ConfigMap", source["configMapRef"]["name"])["data"]
    return found | {entry["name"]: entry["value"] for entry in each.get("env", [])}


def mounted_files(manifests: list[Manifest], name: str) -> dict[str, str | None]:
    """Path in the container -> content, of every ConfigMap and Secret that it mounts.

    A secret that may be absent and is not rendered has no file here.
    """
    volumes = {volume["name"]: volume for volume in pod(manifests)["volumes"]}
    found: dict[str, str | None] = {}
    for mount in container(manifests, name)["volumeMounts"]:
        for data in _contents(manifests, volumes[mount["name"]]):
            if "subPath" in mount:
                assert mount["subPath"] in data, f"there is no file {mount['subPath']}"
                found[mount["mountPath"]] = data[mount["subPath"]]
            else:
                found |= {f"{mount['mountPath']}/{key}": text for key, text in data.items()}
    return found


def properties(text: str) -> dict[str, str]:
    """A Java properties file."""
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return dict(line.split("=", 1) for line in lines)


def seconds(text: str) -> float:
    """Of nginx's 15s, and of Compose's."""
    return float(text.removesuffix("s"))


def nginx(directive: str) -> str:
    """Its first value in the proxy's nginx.conf."""
    conf = text_of("deploy/proxy/nginx.conf")
    return str(re.findall(rf"^\s*{directive} ([^;]+);", conf, re.MULTILINE)[0])


def proxy_defaults() -> dict[str, str]:
    """The variables of proxy.sh."""
    return dict(re.findall(r'"\$\{(\w+):=([^}]*)\}', text_of("deploy/proxy/proxy.sh")))


def _contents(manifests: list[Manifest], volume: Manifest) -> Iterator[dict[str, str | None]]:
    if "configMap" in volume:
        yield _named(manifests, "ConfigMap", volume["configMap"]["name"])["data"]
    for source in volume.get("projected", {}).get("sources", []):
        secret = source["secret"]
        names = {m["metadata"]["name"] for m in manifests if m["kind"] == "Secret"}
        if secret["name"] in names:
            yield dict.fromkeys(_named(manifests, "Secret", secret["name"])["data"])
        else:
            assert secret.get("optional"), f"there is no secret {secret['name']}"


def _named(manifests: list[Manifest], kind: str, name: str) -> Manifest:
    found = [m for m in manifests if m["kind"] == kind and m["metadata"]["name"] == name]
    assert len(found) == 1, f"there are {len(found)} of kind {kind} named {name}"
    return found[0]
