"""The Kubernetes manifests: rendered, held against the API's schemas, against themselves, and
beside what the images, the proxy, the handler and TorchServe say."""

import base64
import os
import re
import shutil
import textwrap
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

from deploy import entrypoint
from deploy.serve import Start
from deploy.server import ROOT, START_S, Ports
from handler.hardware import processors
from handler.settings import Limits
from tests.support.documents import text_of, yaml_of
from tests.support.manifests import (
    FOLDER,
    Manifest,
    container,
    environment,
    kustomize,
    mounted_files,
    nginx,
    only,
    pod,
    ports,
    properties,
    proxy_defaults,
    rendered,
    seconds,
)
from tests.support.proxies import environment as proxy_environment
from tests.support.proxies import refused

UNPUBLISHED = text_of("deploy/proxy/nginx.conf").partition("@METRICS_LISTEN@")[2]
MODEL_CONFIG = yaml_of("handler/model-config.yaml")
APP = {"app.kubernetes.io/name": "dcgan"}
OPERATORS = ("PodMonitor", "PrometheusRule")  # not Kubernetes' own
PROBES = ("startupProbe", "livenessProbe")
OLDEST, NEWEST = "1.30", "1.37"  # preStop.sleep is on by default since 1.30


@pytest.mark.parametrize("version", [OLDEST, NEWEST])
def test_every_document_fits_the_api(manifests: list[Manifest], version: str) -> None:
    for manifest in manifests:
        if manifest["kind"] not in OPERATORS:
            kubernetes_validate.validate(manifest, version, strict=True)


@pytest.mark.parametrize("kind", OPERATORS)
def test_what_the_operator_reads_fits_its_resource_definitions(
    overlay: list[Manifest], kind: str
) -> None:
    """Read into the operator's types and written again: what they do not know would be lost."""
    from cloudcoil.models.prometheus_operator import v1  # here, as it takes seconds

    manifest = only(overlay, kind)
    read = getattr(v1, kind).model_validate(manifest)
    assert read.model_dump(by_alias=True, exclude_unset=True, mode="json") == manifest


def test_what_selects_the_pods_selects_their_labels(manifests: list[Manifest]) -> None:
    template = only(manifests, "Deployment")["spec"]["template"]
    assert template["metadata"]["labels"].items() >= APP.items()
    spec = template["spec"]
    selectors = [
        only(manifests, "Deployment")["spec"]["selector"],
        only(manifests, "PodDisruptionBudget")["spec"]["selector"],
        *(each["labelSelector"] for each in spec["topologySpreadConstraints"]),
        *(m["spec"]["selector"] for m in manifests if m["kind"] == "PodMonitor"),
    ]
    assert [each["matchLabels"] for each in selectors] == [APP] * len(selectors)
    assert only(manifests, "Service")["spec"]["selector"] == APP


def test_everything_is_in_the_restricted_namespace(manifests: list[Manifest]) -> None:
    namespace = only(manifests, "Namespace")
    level = "pod-security.kubernetes.io/enforce"
    assert namespace["metadata"]["labels"][level] == "restricted"
    others = [m for m in manifests if m["kind"] != "Namespace"]
    assert {m["metadata"]["namespace"] for m in others} == {"dcgan"}


def test_the_pods_meet_the_restricted_level_and_more(manifests: list[Manifest]) -> None:
    spec = pod(manifests)
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert not {"hostNetwork", "hostPID", "hostIPC"} & spec.keys()
    assert all("hostPath" not in volume for volume in spec["volumes"])
    for each in spec["containers"]:
        context = each["securityContext"]
        assert context["allowPrivilegeEscalation"] is False
        assert context["readOnlyRootFilesystem"] is True
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert "hostPort" not in str(each.get("ports"))


def test_no_token_of_the_api_is_in_the_pods(manifests: list[Manifest]) -> None:
    account = only(manifests, "ServiceAccount")
    assert account["automountServiceAccountToken"] is False
    assert pod(manifests)["automountServiceAccountToken"] is False
    assert pod(manifests)["serviceAccountName"] == account["metadata"]["name"]


def test_every_port_that_is_named_exists(manifests: list[Manifest]) -> None:
    named = ports(manifests)
    wanted = [port["targetPort"] for port in only(manifests, "Service")["spec"]["ports"]]
    for manifest in manifests:
        if manifest["kind"] == "PodMonitor":
            wanted += [end["port"] for end in manifest["spec"]["podMetricsEndpoints"]]
        if manifest["kind"] == "NetworkPolicy":
            rules = manifest["spec"].get("ingress", [])
            wanted += [port["port"] for rule in rules for port in rule["ports"]]
    assert set(wanted) <= set(named)
    for each in pod(manifests)["containers"]:
        own = {port["name"] for port in each.get("ports", [])}
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            action = each.get(probe, {})
            target = (action.get("httpGet") or action.get("tcpSocket") or {}).get("port")
            assert target is None or target in own | set(named.values())


def test_every_volume_is_mounted_and_every_mount_has_one(manifests: list[Manifest]) -> None:
    volumes = {volume["name"] for volume in pod(manifests)["volumes"]}
    mounts = {m["name"] for each in pod(manifests)["containers"] for m in each["volumeMounts"]}
    assert mounts == volumes


def test_only_the_proxy_can_be_reached_and_nobody_can_be_called(manifests: list[Manifest]) -> None:
    deny = only(manifests, "NetworkPolicy", "default-deny")["spec"]
    assert deny["podSelector"] == {}
    assert set(deny["policyTypes"]) == {"Ingress", "Egress"}
    assert not {"ingress", "egress"} & deny.keys()
    opened = {}
    for manifest in manifests:
        if manifest["kind"] == "NetworkPolicy" and manifest["metadata"]["name"] != "default-deny":
            spec = manifest["spec"]
            assert spec["podSelector"] == {"matchLabels": APP}
            assert spec["policyTypes"] == ["Ingress"]
            for rule in spec["ingress"]:
                (port,) = (each["port"] for each in rule["ports"])
                opened[port] = rule.get("from")
    monitoring = {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}
    assert opened == {"https": None, "metrics": [{"namespaceSelector": monitoring}]}


def test_the_end_of_one_container_is_no_reason_to_end_the_other(manifests: list[Manifest]) -> None:
    """What restarts a container asks that container; the kubelet reaches TorchServe from inside."""
    for each in pod(manifests)["containers"]:
        own = {port[key] for port in each.get("ports", []) for key in ("name", "containerPort")}
        for probe in PROBES:
            action = each.get(probe, {})
            asked = action.get("httpGet") or action.get("tcpSocket")
            assert asked is None or asked["port"] in own, (each["name"], probe)
    assert all("exec" in container(manifests, "torchserve")[probe] for probe in PROBES)


def test_the_handler_starts_as_many_threads_as_the_pod_asks_for(
    manifests: list[Manifest], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a node of 64 cores, where the container sees its limit as cpu.max."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)))
    resources = container(manifests, "torchserve")["resources"]
    limit = resources["limits"].get("cpu")
    quota = "max" if limit is None else int(limit) * 100_000
    (tmp_path / "cpu.max").write_text(f"{quota} 100000\n")
    assert processors(tmp_path) == int(resources["requests"]["cpu"])


def test_requests_and_limits(manifests: list[Manifest]) -> None:
    for each in pod(manifests)["containers"]:
        resources = each["resources"]
        assert {"cpu", "memory", "ephemeral-storage"} <= resources["requests"].keys()
        assert {"memory", "ephemeral-storage"} <= resources["limits"].keys()
    torchserve = container(manifests, "torchserve")["resources"]
    assert torchserve["requests"]["memory"] == torchserve["limits"]["memory"]


def test_one_gpu_a_pod() -> None:
    cpu, gpu = (rendered(FOLDER / f"overlays/{name}") for name in ("cpu", "gpu"))
    limit = container(gpu, "torchserve")["resources"]["limits"]["nvidia.com/gpu"]
    assert limit == 1
    args = yaml_of("deploy/compose.gpu.yml")["services"]["torchserve"]["build"]["args"]
    # PNGs are what is left to do, and a worker with one processor waits for each of them.
    assert int(container(gpu, "torchserve")["resources"]["requests"]["cpu"]) >= 2 * args["WORKERS"]
    assert "nvidia.com/gpu" not in str(cpu)
    assert {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"} in pod(gpu)[
        "tolerations"
    ]


def test_no_apply_sets_the_number_of_pods(manifests: list[Manifest]) -> None:
    """Nor does one take it away, which sets it to 1: it is in none of them, so that going from one
    of them to another changes nothing."""
    assert "replicas" not in only(manifests, "Deployment")["spec"]


def test_the_autoscaler_owns_the_number_of_pods(overlay: list[Manifest]) -> None:
    deployment = only(overlay, "Deployment")
    spec = only(overlay, "HorizontalPodAutoscaler")["spec"]
    target = {"kind": "Deployment", "name": deployment["metadata"]["name"]}
    assert spec["scaleTargetRef"] == target | {"apiVersion": deployment["apiVersion"]}
    assert 2 <= spec["minReplicas"] < spec["maxReplicas"]
    down, up = (spec["behavior"][way] for way in ("scaleDown", "scaleUp"))
    assert down["stabilizationWindowSeconds"] > up["stabilizationWindowSeconds"]


def test_the_placeholder_of_the_keys_does_not_start(
    manifests: list[Manifest], tmp_path: Path
) -> None:
    only(manifests, "Secret", "dcgan-api-keys")
    given = proxy_environment(tmp_path, Ports(), SECRETS=str(FOLDER / "base"))
    assert "the key of replace-me has 11 characters" in refused(given)


def test_an_overlay_of_ones_own_as_the_documentation_shows_it(tmp_path: Path) -> None:
    guide = text_of("docs/operations/kubernetes.md")
    (example,) = re.findall(r"```yaml\n( *# kustomization\.yaml\n.*?)```", guide, re.DOTALL)
    inside = tmp_path / "repository" / "deploy"
    shutil.copytree(FOLDER, inside / "kubernetes")
    mine = tmp_path / "mine"
    mine.mkdir()
    (patches,) = re.findall(r"```yaml\n( *patches:\n[^`]*ServiceAccount[^`]*)```", guide)
    (mine / "kustomization.yaml").write_text(
        textwrap.dedent(example) + textwrap.dedent(patches), encoding="utf-8"
    )
    missing = kustomize(mine)
    assert missing.returncode != 0
    assert "api_keys" in missing.stderr
    (mine / "api_keys").write_text(f"shop {'k' * 32}\n", encoding="utf-8")
    manifests = rendered(mine)
    for manifest in manifests:
        if manifest["kind"] not in OPERATORS:
            kubernetes_validate.validate(manifest, NEWEST, strict=True)
    keys = only(manifests, "Secret", "dcgan-api-keys")
    assert base64.b64decode(keys["data"]["api_keys"]) == (mine / "api_keys").read_bytes()
    assert keys["metadata"]["name"] in str(pod(manifests)["volumes"])
    assert only(manifests, "ServiceAccount")["imagePullSecrets"] == [{"name": "registry"}]
    images = {each["name"]: each["image"] for each in pod(manifests)["containers"]}
    assert all(image.startswith("registry.example/") for image in images.values())


def test_a_pod_is_given_the_time_to_finish(manifests: list[Manifest]) -> None:
    """The proxy closes first and waits for its requests; TorchServe for the proxy."""
    sleeps = {
        name: container(manifests, name)["lifecycle"]["preStop"]["sleep"]["seconds"]
        for name in ("proxy", "torchserve")
    }
    assert 0 < sleeps["proxy"] < sleeps["torchserve"]
    drain_s = float(environment(manifests, "torchserve")["DCGAN_DRAIN_S"])
    assert drain_s > seconds(nginx("proxy_read_timeout"))
    grace = pod(manifests)["terminationGracePeriodSeconds"]
    assert grace > sleeps["torchserve"] + drain_s + entrypoint.END_S
    assert "STOPSIGNAL SIGQUIT" in text_of("deploy/Dockerfile.proxy")


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
        user, group = re.findall(r"^USER (\d+):(\d+)$", text_of(f"deploy/{file}"), re.MULTILINE)[-1]
        context = container(manifests, name)["securityContext"]
        assert (context["runAsUser"], context["runAsGroup"]) == (int(user), int(group))
    found = re.search(r"^HEALTHCHECK .*?CMD (\[.*?\])$", text_of("deploy/Dockerfile"), re.M | re.S)
    assert found
    probe = container(manifests, "torchserve")["startupProbe"]["exec"]["command"]
    assert probe == yaml.safe_load(found[1])
    alive = container(manifests, "torchserve")["livenessProbe"]["exec"]["command"]
    assert alive == [*probe, "--alive"]


def test_the_build_gives_the_model_the_version_that_the_documentation_sets() -> None:
    """What is exported elsewhere is not in the image."""
    assert "--build-arg MODEL_VERSION=" in text_of("docs/operations/kubernetes.md")
    exported = r"(?m)^RUN .* -m export .*--model-version \$\{MODEL_VERSION\}"
    assert re.search(exported, text_of("deploy/Dockerfile"))


def test_images_have_one_version_everywhere(manifests: list[Manifest]) -> None:
    (version,) = re.findall(r'^version = "(.+)"$', text_of("pyproject.toml"), re.M)
    for name in ("torchserve", "proxy"):
        repository, _, tag = container(manifests, name)["image"].partition(":")
        assert tag.removesuffix("-gpu") == version
        service = yaml_of("docker-compose.yml")["services"][name]
        assert service["image"] == f"{repository}:{version}"


def test_the_settings_are_the_repositorys(manifests: list[Manifest]) -> None:
    """But for what the image adds to them as well."""
    file = mounted_files(manifests, "torchserve")["/opt/dcgan/config.properties"]
    ours = properties(str(file))
    theirs = properties(text_of("config.properties"))
    assert "-XX:+ExitOnOutOfMemoryError" in ours["vmargs"]
    assert ours["vmargs"].replace("-XX:+ExitOnOutOfMemoryError ", "") == theirs["vmargs"]
    assert {**ours, "vmargs": ""} == {**theirs, "vmargs": ""}
    listening = [value for key, value in ours.items() if key.endswith("_address")]
    assert all("127.0.0.1" in value for value in listening)


def test_the_proxy_finds_torchserve(manifests: list[Manifest]) -> None:
    settings = environment(manifests, "proxy")
    for name in ("INFERENCE", "MANAGEMENT", "METRICS"):
        assert settings[name] == f"http://127.0.0.1:{getattr(Ports(), name.lower())}"
    defaults = proxy_defaults()
    assert settings.keys() <= defaults.keys()
    listening = {defaults["LISTEN"], defaults["METRICS_LISTEN"]}
    assert {str(number) for number in ports(manifests).values()} == listening
    mounts = {m["mountPath"] for m in container(manifests, "proxy")["volumeMounts"]}
    assert {defaults["SECRETS"], defaults["STATE"]} <= mounts
    assert str(Path(defaults["RUN"]).parent) in mounts


def test_a_pod_is_ready_by_the_port_that_is_not_published(manifests: list[Manifest]) -> None:
    """Where no traffic from outside can use up what they may ask."""
    assert "limit_req" not in UNPUBLISHED
    asked = container(manifests, "proxy")["readinessProbe"]["httpGet"]
    assert ports(manifests)[asked["port"]] == ports(manifests)["metrics"]
    assert "scheme" not in asked
    assert f"location = {asked['path']} " in UNPUBLISHED


def test_handler_and_proxy_read_the_same_limits(manifests: list[Manifest]) -> None:
    file = mounted_files(manifests, "torchserve")["/opt/dcgan/config.properties"]
    assert mounted_files(manifests, "proxy")["/opt/config.properties"] == file
    settings, limits = properties(str(file)), Limits()
    assert limits == Limits(**MODEL_CONFIG["handler"]["limits"])
    assert int(settings["max_request_size"]) == limits.max_body_bytes
    assert int(settings["max_response_size"]) == limits.max_reply_bytes
    assert seconds(nginx("proxy_read_timeout")) > MODEL_CONFIG["responseTimeout"]


def test_the_scraped_paths_are_the_proxys(overlay: list[Manifest]) -> None:
    patterns = re.findall(r"location [~=] (\S+) ", UNPUBLISHED.replace("?<", "?P<"))
    for endpoint in only(overlay, "PodMonitor")["spec"]["podMetricsEndpoints"]:
        assert any(re.fullmatch(pattern, endpoint["path"]) for pattern in patterns)


# The InferenceService for KServe. Of a predictor, those keys that are not a pod's
# (V1beta1PredictorSpec of KServe 0.21).
OWN = {"minReplicas", "maxReplicas", "scaleMetric", "scaleTarget", "timeout"}


@pytest.fixture(scope="module")
def kserve() -> list[Manifest]:
    return rendered(FOLDER / "overlays/kserve")


@pytest.fixture(scope="module")
def predictor(kserve: list[Manifest]) -> Manifest:
    service = only(kserve, "InferenceService")
    assert service["apiVersion"] == "serving.kserve.io/v1beta1"
    assert service.keys() == {"apiVersion", "kind", "metadata", "spec"}
    assert service["spec"].keys() == {"predictor"}
    found: Manifest = service["spec"]["predictor"]
    assert found.keys() >= OWN
    return found


@pytest.mark.parametrize("version", [OLDEST, NEWEST])
def test_what_is_not_kserves_fits_the_api(
    kserve: list[Manifest], predictor: Manifest, version: str
) -> None:
    spec = {key: value for key, value in predictor.items() if key not in OWN}
    alone = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": spec}
    kubernetes_validate.validate(alone, version, strict=True)
    kubernetes_validate.validate(
        only(kserve, "NetworkPolicy", "dcgan-kserve"), version, strict=True
    )


def test_the_container_is_that_of_the_base(predictor: Manifest) -> None:
    """But for what KServe asks for: its name, its port, and when it is ready."""
    base = container(rendered(FOLDER / "base"), "torchserve")
    (own,) = predictor["containers"]
    assert own["name"] == "kserve-container"
    assert own["readinessProbe"]["exec"] == own["startupProbe"]["exec"]
    settings = [mount for mount in base["volumeMounts"] if mount["name"] == "settings"]
    mounts = [*own["volumeMounts"], *settings]
    kept = {key: value for key, value in own.items() if key not in ("ports", "readinessProbe")}
    assert {**kept, "name": "torchserve", "volumeMounts": mounts} == base


def test_only_what_the_image_serves_can_be_reached(
    kserve: list[Manifest], predictor: Manifest
) -> None:
    policy = only(kserve, "NetworkPolicy", "dcgan-kserve")["spec"]
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    assert "egress" not in policy
    reached = [port["port"] for rule in policy["ingress"] for port in rule["ports"]]
    assert reached == [Ports().inference, Ports().metrics]
    assert predictor["containers"][0]["ports"][0]["containerPort"] == reached[0]
