"""The Kubernetes manifests beside what the images, the proxy, the handler and TorchServe say."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from deploy import entrypoint
from deploy.serve import Start
from deploy.server import ROOT, START_S, Ports
from handler.settings import Limits
from tests.support.manifests import (
    Manifest,
    container,
    environment,
    mounted_files,
    only,
    pod,
    ports,
    properties,
    seconds,
)

NGINX = (ROOT / "deploy" / "proxy" / "nginx.conf").read_text(encoding="utf-8")
MODEL_CONFIG = yaml.safe_load((ROOT / "handler" / "model-config.yaml").read_text(encoding="utf-8"))


def nginx(directive: str) -> str:
    found = re.findall(rf"^\s*{directive} ([^;]+);", NGINX, re.MULTILINE)
    assert found, f"nginx.conf has no {directive}"
    return str(found[0])


def test_a_pod_is_given_the_time_to_finish(manifests: list[Manifest]) -> None:
    """The proxy closes first and waits for its requests; TorchServe for the proxy."""
    sleeps = {
        name: container(manifests, name)["lifecycle"]["preStop"]["sleep"]["seconds"]
        for name in ("proxy", "torchserve")
    }
    assert 0 < sleeps["proxy"] < sleeps["torchserve"]
    drain_s = float(environment(manifests, "torchserve")["DCGAN_DRAIN_S"])
    assert drain_s > seconds(nginx("proxy_read_timeout").split(";")[0])
    grace = pod(manifests)["terminationGracePeriodSeconds"]
    assert grace > sleeps["torchserve"] + drain_s + entrypoint.END_S
    dockerfile = (ROOT / "deploy" / "Dockerfile.proxy").read_text(encoding="utf-8")
    assert "STOPSIGNAL SIGQUIT" in dockerfile


def test_the_probes_wait_as_long_as_torchserve_tries(manifests: list[Manifest]) -> None:
    torchserve = container(manifests, "torchserve")
    startup, liveness = torchserve["startupProbe"], torchserve["livenessProbe"]
    budget = startup["periodSeconds"] * startup["failureThreshold"]
    given_up_s = entrypoint.patience_s(ROOT / "model_store" / "dcgan.mar")
    assert budget > given_up_s > MODEL_CONFIG["startupTimeout"]
    assert only(manifests, "Deployment")["spec"]["progressDeadlineSeconds"] > budget
    retries_s = MODEL_CONFIG.get("maxRetryTimeoutInSec", 300)
    assert liveness["periodSeconds"] * liveness["failureThreshold"] > given_up_s > retries_s


def test_a_start_here_is_waited_for_as_long_as_torchserve_tries() -> None:
    assert MODEL_CONFIG["startupTimeout"] < START_S == Start().timeout_s


def test_the_probe_and_the_user_are_the_images(manifests: list[Manifest]) -> None:
    for name, file in (("torchserve", "Dockerfile"), ("proxy", "Dockerfile.proxy")):
        dockerfile = (ROOT / "deploy" / file).read_text(encoding="utf-8")
        user, group = re.findall(r"^USER (\d+):(\d+)$", dockerfile, re.MULTILINE)[-1]
        context = container(manifests, name)["securityContext"]
        assert (context["runAsUser"], context["runAsGroup"]) == (int(user), int(group))
    dockerfile = (ROOT / "deploy" / "Dockerfile").read_text(encoding="utf-8")
    command = re.search(r"^HEALTHCHECK .*?CMD (\[.*?\])$", dockerfile, re.MULTILINE | re.DOTALL)
    assert command is not None
    probe = container(manifests, "torchserve")["startupProbe"]["exec"]["command"]
    assert probe == yaml.safe_load(command[1])
    alive = container(manifests, "torchserve")["livenessProbe"]["exec"]["command"]
    assert alive == [*probe, "--alive"]


def test_images_have_one_version_everywhere(manifests: list[Manifest]) -> None:
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
    for name in ("torchserve", "proxy"):
        image = container(manifests, name)["image"]
        repository, _, tag = image.partition(":")
        assert tag
        assert tag != "latest"
        version = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.M)
        assert version is not None
        assert tag.removesuffix("-gpu") == version[1]
        assert compose["services"][name]["image"] == f"{repository}:{version[1]}"


def test_the_settings_are_the_repositorys(manifests: list[Manifest]) -> None:
    """But for what the image adds to them as well."""
    file = mounted_files(manifests, "torchserve")["/opt/dcgan/config.properties"]
    assert file is not None
    ours = properties(file)
    theirs = properties((ROOT / "config.properties").read_text(encoding="utf-8"))
    assert "-XX:+ExitOnOutOfMemoryError" in ours["vmargs"]
    assert ours["vmargs"].replace("-XX:+ExitOnOutOfMemoryError ", "") == theirs["vmargs"]
    assert {**ours, "vmargs": ""} == {**theirs, "vmargs": ""}
    listening = [value for key, value in ours.items() if key.endswith("_address")]
    assert all("127.0.0.1" in value for value in listening)


def test_the_proxy_finds_torchserve(manifests: list[Manifest]) -> None:
    settings = environment(manifests, "proxy")
    addresses = {name: settings[name] for name in ("INFERENCE", "MANAGEMENT", "METRICS")}
    usual = Ports()
    assert addresses == {
        "INFERENCE": f"http://127.0.0.1:{usual.inference}",
        "MANAGEMENT": f"http://127.0.0.1:{usual.management}",
        "METRICS": f"http://127.0.0.1:{usual.metrics}",
    }
    script = (ROOT / "deploy" / "proxy" / "proxy.sh").read_text(encoding="utf-8")
    defaults = dict(re.findall(r'"\$\{(\w+):=([^}]*)\}', script))
    assert settings.keys() <= defaults.keys()
    listening = {defaults["LISTEN"], defaults["METRICS_LISTEN"]}
    assert {str(number) for number in ports(manifests).values()} == listening
    mounts = {m["mountPath"] for m in container(manifests, "proxy")["volumeMounts"]}
    assert {defaults["SECRETS"], defaults["STATE"]} <= mounts
    assert str(Path(defaults["RUN"]).parent) in mounts


def test_a_pod_is_ready_by_the_port_that_is_not_published(manifests: list[Manifest]) -> None:
    """Where no traffic from outside can use up what they may ask."""
    unpublished = NGINX[NGINX.index("@METRICS_LISTEN@") :]
    assert "limit_req" not in unpublished
    asked = container(manifests, "proxy")["readinessProbe"]["httpGet"]
    assert ports(manifests)[asked["port"]] == ports(manifests)["metrics"]
    assert "scheme" not in asked
    assert f"location = {asked['path']} " in unpublished


def test_the_limit_of_a_body_is_the_same_everywhere(manifests: list[Manifest]) -> None:
    file = mounted_files(manifests, "torchserve")["/opt/dcgan/config.properties"]
    assert file is not None
    settings, limits = properties(file), Limits()
    assert limits == Limits(**MODEL_CONFIG["handler"]["limits"])
    assert int(settings["max_request_size"]) == limits.max_body_bytes
    assert int(nginx("client_max_body_size")) == limits.max_body_bytes
    assert int(settings["max_response_size"]) > limits.max_reply_bytes
    assert seconds(nginx("proxy_read_timeout")) > MODEL_CONFIG["responseTimeout"]


def test_the_scraped_paths_are_the_proxys(overlay: list[Manifest]) -> None:
    server = NGINX[NGINX.index("@METRICS_LISTEN@") :]
    found = [
        re.compile(pattern)
        for pattern in re.findall(r"location [~=] (\S+) ", server.replace("?<", "?P<"))
    ]
    for endpoint in only(overlay, "PodMonitor")["spec"]["podMetricsEndpoints"]:
        assert any(pattern.fullmatch(endpoint["path"]) for pattern in found)
