"""docker-compose.yml and the Dockerfiles: valid, hardened, and with the versions of the rest."""

import re
import subprocess
import sys
from typing import Any

import pytest
import yaml
from compose_spec import PyCompose

from deploy import entrypoint
from deploy.server import ROOT
from tests.support import live
from tests.support.documents import text_of, yaml_of
from tests.support.manifests import (
    Manifest,
    container,
    environment,
    nginx,
    pod,
    properties,
    proxy_defaults,
    seconds,
)

OVERRIDES = ["compose.gpu.yml", "compose.grafana.yml"]
DEFAULTS = proxy_defaults()
_VARIABLE = re.compile(r"\$\{\w+:-([^}]*)\}")


def load(path: str) -> Any:
    """A Compose file with its variables at their defaults and its anchors resolved."""
    return yaml.safe_load(_VARIABLE.sub(r"\1", text_of(path)))


COMPOSE = load("docker-compose.yml")


def merged(name: str) -> Any:
    """docker-compose.yml under one of the override files."""
    return live.merged(COMPOSE, load(f"deploy/{name}"))


@pytest.mark.parametrize("name", ["docker-compose.yml", *(f"deploy/{n}" for n in OVERRIDES)])
def test_no_default_is_empty(name: str) -> None:
    """podman-compose 1.0 leaves a variable with an empty default as it stands."""
    defaults = _VARIABLE.findall(text_of(name))
    assert len(defaults) == text_of(name).count("${")
    assert "" not in defaults


@pytest.mark.parametrize("content", [COMPOSE, *map(merged, OVERRIDES)])
def test_the_files_keep_to_the_compose_specification(content: Any) -> None:
    PyCompose.from_yaml(yaml.safe_dump(content)).validate()


def test_only_the_proxy_is_published_and_only_it_meets_torchserve() -> None:
    services = COMPOSE["services"]
    assert {n: s["ports"] for n, s in services.items() if "ports" in s} == {
        "proxy": ["127.0.0.1:8443:8443"]
    }
    assert {n for n, s in services.items() if "serving" in s["networks"]} == {"torchserve", "proxy"}
    assert services["torchserve"]["networks"] == ["serving"]
    assert all(COMPOSE["networks"][n]["internal"] for n in ("serving", "monitoring"))
    assert merged("compose.grafana.yml")["services"]["grafana"]["ports"] == ["127.0.0.1:3000:3000"]


@pytest.mark.parametrize("name", ["torchserve", "proxy", "prometheus", "grafana"])
def test_every_service_is_hardened(name: str) -> None:
    service = COMPOSE["services"][name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["mem_limit"]
    assert service["pids_limit"]
    assert not service.keys() & {"privileged", "cap_add", "network_mode", "pid", "ipc", "devices"}
    for volume in service.get("volumes", []):
        assert volume.endswith(":ro") or volume.split(":")[0] in COMPOSE["volumes"]


@pytest.mark.parametrize(
    ("name", "file"), [("torchserve", "Dockerfile"), ("proxy", "Dockerfile.proxy")]
)
def test_the_health_check_is_the_images(name: str, file: str) -> None:
    """Told twice: Docker finds it in the image, but podman's images (OCI) cannot hold one."""
    lines = text_of(f"deploy/{file}").replace("\\\n", " ")
    found = re.search(r"^HEALTHCHECK (.*?) CMD (\[.*\])$", lines, re.MULTILINE)
    assert found
    options = dict(re.findall(r"--([a-z-]+)=(\S+)", found[1]))
    told = COMPOSE["services"][name]["healthcheck"]
    assert {k: str(v) for k, v in told.items() if k != "test"} == {
        k.replace("-", "_"): v for k, v in options.items()
    }
    assert told["test"] == ["CMD", *yaml.safe_load(found[2])]


def test_no_health_check_asks_a_proxy_about_its_own_container() -> None:
    """busybox's wget, which Grafana's image has, would: "-Y off" forbids it. The others cannot."""
    services = COMPOSE["services"]
    commands = {name: " ".join(each["healthcheck"]["test"]) for name, each in services.items()}
    asks = {name: command for name, command in commands.items() if "wget" in command}
    assert asks.keys() == {"grafana"}
    assert all(" -Y off " in command for command in asks.values())


def test_a_security_linter_finds_nothing_grave() -> None:
    command = [sys.executable, "-m", "compose_lint", "check", "docker-compose.yml"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_images_are_pinned_by_digest() -> None:
    digest = re.compile(r"@sha256:[0-9a-f]{64}$")
    services = COMPOSE["services"].values()
    assert all("build" in s or digest.search(s["image"]) for s in services)
    bases = set()
    for file in ("Dockerfile", "Dockerfile.proxy"):
        text = text_of(f"deploy/{file}")
        base = re.search(r"^ARG DEBIAN=(\S+)$", text, re.MULTILINE)
        assert base
        assert digest.search(base.group(1))
        bases.add(base.group(1))
        assert re.search(r"^USER [1-9]\d+:[1-9]\d+$", text, re.MULTILINE)
    assert len(bases) == 1


def test_the_image_has_the_versions_of_requirements_txt() -> None:
    pins = dict(
        line.split("==") for line in text_of("requirements.txt").splitlines() if "==" in line
    )
    text = text_of("deploy/Dockerfile")
    assert f"ARG TORCH=torch=={pins['torch']}+cpu\n" in text
    assert f"ARG ONNXRUNTIME=onnxruntime=={pins['onnxruntime-gpu']}\n" in text
    gpu = load("deploy/compose.gpu.yml")["services"]["torchserve"]["build"]["args"]
    assert gpu["TORCH"] == f"torch=={pins['torch']}"
    assert "ONNXRUNTIME" not in gpu  # it is for the CPU in both


def test_the_proxy_waits_longer_than_torchserve_and_stops_after_it() -> None:
    """A reply takes up to responseTimeout; nginx waits a little longer; Docker longest."""
    reply_s = yaml_of("handler/model-config.yaml")["responseTimeout"]
    read_s = seconds(nginx("proxy_read_timeout"))
    services = COMPOSE["services"]
    assert reply_s < read_s < seconds(services["proxy"]["stop_grace_period"])
    assert read_s < entrypoint.DRAIN_S
    grace_s = seconds(services["torchserve"]["stop_grace_period"])
    assert grace_s > entrypoint.DRAIN_S + entrypoint.END_S
    assert services["proxy"]["stop_signal"] == "SIGQUIT"
    assert services["proxy"]["depends_on"] == ["torchserve"]


def test_the_proxy_reads_torchserves_settings() -> None:
    dockerfile = text_of("deploy/Dockerfile.proxy")
    assert "\nCOPY config.properties /opt/\n" in dockerfile
    assert "\nCOPY deploy/proxy /opt/dcgan/proxy\n" in dockerfile
    assert DEFAULTS["SETTINGS"] == "$HERE/../../config.properties"


def test_the_image_has_our_collector_of_system_metrics() -> None:
    dockerfile = text_of("deploy/Dockerfile")
    assert re.search(r"^COPY .*deploy/system_metrics\.py.* deploy/$", dockerfile, re.MULTILINE)
    assert " pynvml " in dockerfile
    assert "\npynvml==" in text_of("requirements.txt")


# What may be open at once in the proxy fits the place where it waits.

UNITS = {"m": 2**20, "g": 2**30, "Mi": 2**20, "Gi": 2**30}


def size(text: str) -> int:
    """Bytes of 512m or 1Gi."""
    found = re.fullmatch(r"(\d+)([a-zA-Z]+)", text)
    assert found
    return int(found[1]) * UNITS[found[2]]


SETTINGS = properties(text_of("config.properties"))
# The largest body and the largest reply: both may lie on the disk.
OPEN_BYTES = int(SETTINGS["max_request_size"]) + int(SETTINGS["max_response_size"])
# Settings, the pid file, what a reload writes; and a counter of each kind of reply, of 2 MB.
KEPT_BYTES = (8 + 40 * 2) * 2**20


def cached(megabytes: str) -> int:
    """Bytes of pictures that are kept. nginx looks at their size every 10 s, so half as much more
    has to fit."""
    return int(megabytes) * 2**20 * 3 // 2


def test_what_is_open_at_once_fits_the_tmpfs_of_compose() -> None:
    proxy = COMPOSE["services"]["proxy"]
    assert "ALL_CONNECTIONS" not in proxy["environment"]
    assert proxy["environment"]["CONNECTIONS"] == int(DEFAULTS["CONNECTIONS"])
    (mount,) = proxy["tmpfs"]
    tmpfs = size(re.search(r"size=(\w+)", mount)[1])  # type: ignore[index]
    waiting = int(DEFAULTS["ALL_CONNECTIONS"]) * OPEN_BYTES
    assert waiting + KEPT_BYTES + cached(DEFAULTS["CACHE_MB"]) <= tmpfs
    # A tmpfs is memory of the container; 1 MB of each reply is in nginx itself.
    buffers = int(DEFAULTS["ALL_CONNECTIONS"]) * 2**20
    assert tmpfs + buffers + 256 * 2**20 <= size(proxy["mem_limit"])


def test_what_is_open_at_once_fits_the_volume_of_a_pod(manifests: list[Manifest]) -> None:
    settings = environment(manifests, "proxy")
    (volume,) = (v for v in pod(manifests)["volumes"] if v["name"] == "proxy-tmp")
    waiting = int(settings["ALL_CONNECTIONS"]) * OPEN_BYTES
    limit = size(volume["emptyDir"]["sizeLimit"])
    # A pod that passes it is evicted.
    assert waiting + KEPT_BYTES + cached(settings["CACHE_MB"]) <= limit
    assert limit <= size(container(manifests, "proxy")["resources"]["limits"]["ephemeral-storage"])


def test_one_key_cannot_take_what_all_may_have(manifests: list[Manifest]) -> None:
    settings = environment(manifests, "proxy")
    for some, every in (
        (DEFAULTS["CONNECTIONS"], DEFAULTS["ALL_CONNECTIONS"]),
        (settings["CONNECTIONS"], settings["ALL_CONNECTIONS"]),
    ):
        assert 2 * int(some) <= int(every)


def test_the_numbers_that_are_told_are_those() -> None:
    told = f"{OPEN_BYTES / 1e6:.1f} MB"
    for file in (
        "deploy/proxy/nginx.conf",
        "docker-compose.yml",
        "deploy/kubernetes/base/deployment.yaml",
    ):
        assert told in text_of(file)


def test_the_files_of_all_connections_may_be_open() -> None:
    files = int(nginx("worker_rlimit_nofile"))
    # With a connection to TorchServe, which counts as one, come two files for body and reply.
    assert files >= int(nginx("worker_connections")) + 2 * int(DEFAULTS["ALL_CONNECTIONS"])
    proxy = COMPOSE["services"]["proxy"]
    assert proxy["ulimits"]["nofile"] == {"soft": files, "hard": files}
