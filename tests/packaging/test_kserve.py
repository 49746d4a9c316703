"""The InferenceService for KServe: its pod held against Kubernetes' schemas and the base's."""

from __future__ import annotations

import re

import kubernetes_validate
import pytest

from deploy.server import ROOT
from tests.support.manifests import FOLDER, Manifest, container, only, rendered

# Of a predictor, those keys that are not a pod's (V1beta1PredictorSpec of KServe 0.21).
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


@pytest.mark.parametrize("version", ["1.30", "1.37"])
def test_what_is_not_kserves_fits_the_api(
    kserve: list[Manifest], predictor: Manifest, version: str
) -> None:
    spec = {key: value for key, value in predictor.items() if key not in OWN}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": spec}
    kubernetes_validate.validate(pod, version, strict=True)
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
    text = (ROOT / "config.properties").read_text(encoding="utf-8")
    served = dict(re.findall(r"^(\w+)_address=http://127.0.0.1:(\d+)$", text, re.MULTILINE))
    assert reached == [int(served["inference"]), int(served["metrics"])]
    assert predictor["containers"][0]["ports"][0]["containerPort"] == reached[0]
