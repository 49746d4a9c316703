"""What the cluster's Prometheus, its adapter and the people on call get to see."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.server import ROOT
from tests.support.manifests import (
    FOLDER,
    OVERLAYS,
    Manifest,
    declared_metrics,
    needs_promtool,
    only,
    promtool,
    rendered,
)

GUIDE = (ROOT / "docs" / "operations" / "kubernetes.md").read_text(encoding="utf-8")
ALERTS = ROOT / "deploy" / "prometheus" / "alerts.yml"


def adapter_rules() -> dict[str, dict[str, Any]]:
    path = FOLDER / "components" / "autoscaling" / "prometheus-adapter-values.yaml"
    rules = yaml.safe_load(path.read_text(encoding="utf-8"))["rules"]["custom"]
    return {rule["name"]["as"]: rule for rule in rules}


def test_the_autoscalers_metrics_have_rules_over_series_that_exist(overlay: list[Manifest]) -> None:
    metrics = only(overlay, "HorizontalPodAutoscaler")["spec"]["metrics"]
    rules = adapter_rules()
    assert {metric["pods"]["metric"]["name"] for metric in metrics} == set(rules)
    for rule in rules.values():
        asked = {rule["seriesQuery"].partition("{")[0]}
        asked |= set(re.findall(r"(\w+)\{<<\.LabelMatchers>>\}", rule["metricsQuery"]))
        assert asked <= declared_metrics() | {"dcgan_workers"}  # that one is the proxy's
    assert "`dcgan_workers ${" in (ROOT / "deploy/proxy/proxy.js").read_text(encoding="utf-8")


@needs_promtool
def test_the_rules_compute_what_they_say(tmp_path: Path) -> None:
    """Prometheus itself evaluates them, over 4 minutes of two pods of two workers: one half
    busy, one idle."""
    record = []
    for name, rule in adapter_rules().items():
        query = rule["metricsQuery"].replace("<<.LabelMatchers>>", 'namespace="dcgan"')
        record.append({"record": name, "expr": query.replace("<<.GroupBy>>", "pod")})
    (tmp_path / "rules.yml").write_text(
        yaml.safe_dump({"groups": [{"name": "a", "rules": record}]})
    )
    labels = 'namespace="dcgan",pod="{}"'
    # 15 s apart: 3 + 9 + 3 s of work, 60 requests that waited 6 s together.
    rises = {"dcgan_latents_seconds_sum": 3, "dcgan_forward_seconds_sum": 9,
             "dcgan_encode_seconds_sum": 3, "ts_inference_requests_total": 60,
             "ts_queue_latency_microseconds": 6_000_000}  # fmt: skip
    series = [
        {"series": f"{name}{{{labels.format(pod)}}}", "values": f"0+{rise if pod == 'a' else 0}x16"}
        for name, rise in rises.items()
        for pod in ("a", "b")
    ]
    series += [
        {"series": f"dcgan_workers{{{labels.format(pod)}}}", "values": "2x16"} for pod in ("a", "b")
    ]
    expected = {"dcgan_worker_busy_ratio": 0.5, "dcgan_queue_wait_seconds": 0.1}
    checks = [
        {
            "expr": name,
            "eval_time": "4m",
            "exp_samples": [
                {"labels": f'{name}{{pod="a"}}', "value": value},
                {"labels": f'{name}{{pod="b"}}', "value": 0},
            ],
        }
        for name, value in expected.items()
    ]
    inputs = {"interval": "15s", "input_series": series, "promql_expr_test": checks}
    test = {"rule_files": ["rules.yml"], "evaluation_interval": "15s", "tests": [inputs]}
    (tmp_path / "test.yml").write_text(yaml.safe_dump(test))
    promtool("test", "rules", tmp_path / "test.yml")


def test_the_rule_of_the_operator_is_made_from_the_alerts(
    overlay: list[Manifest], tmp_path: Path
) -> None:
    rule = only(overlay, "PrometheusRule")
    command = "make --always-make deploy/kubernetes/components/monitoring/prometheusrule.yaml"
    assert rule["spec"] == yaml.safe_load(ALERTS.read_text(encoding="utf-8")), f"run: {command}"
    made = tmp_path / "made.yaml"
    again = ["make", "--always-make", f"PROMETHEUS_RULE={made}", str(made)]
    subprocess.run(again, cwd=ROOT, check=True)
    assert made.read_bytes() == (ROOT / command.split()[-1]).read_bytes(), f"run: {command}"
    assert command in GUIDE
    assert command.removeprefix("make ") in made.read_text(encoding="utf-8")


def test_both_are_labelled_for_the_operator_of_kube_prometheus_stack(
    overlay: list[Manifest],
) -> None:
    """Its selector takes no others."""
    monitor, rule = (only(overlay, kind)["metadata"] for kind in ("PodMonitor", "PrometheusRule"))
    assert monitor["labels"] == rule["labels"]
    assert "release" in rule["labels"]


@pytest.mark.parametrize("of", OVERLAYS)
def test_the_names_of_another_prometheus_are_set_as_the_documentation_does(
    tmp_path: Path, of: str
) -> None:
    (patches,) = re.findall(r"```yaml\n(patches:[^`]*PodMonitor[^`]*)```", GUIDE)
    base = os.path.relpath(FOLDER / of, tmp_path.resolve())
    (tmp_path / "kustomization.yaml").write_text(f"resources: [{base}]\n{patches}")
    changed = rendered(tmp_path)
    for kind in ("PodMonitor", "PrometheusRule"):
        assert only(changed, kind)["metadata"]["labels"]["release"] == "prom"
    (rule,) = only(changed, "NetworkPolicy", "dcgan-metrics")["spec"]["ingress"]
    (source,) = rule["from"]
    assert source["namespaceSelector"]["matchLabels"] == {
        "kubernetes.io/metadata.name": "observability"
    }


def test_every_alert_is_in_the_runbook() -> None:
    groups = yaml.safe_load(ALERTS.read_text(encoding="utf-8"))["groups"]
    alerts = [rule["alert"] for group in groups for rule in group["rules"]]
    assert re.findall(r"^\| (Dcgan\w+) \|", GUIDE, re.MULTILINE) == alerts


def test_the_jobs_have_the_names_of_the_alerts_and_dashboards(overlay: list[Manifest]) -> None:
    text = (ROOT / "deploy" / "prometheus" / "prometheus.yml").read_text(encoding="utf-8")
    theirs = {
        each.get("metrics_path", "/metrics"): each["job_name"]
        for each in yaml.safe_load(text)["scrape_configs"]
        if each["job_name"] != "prometheus"
    }
    ours = {
        end["path"]: each["replacement"]
        for end in only(overlay, "PodMonitor")["spec"]["podMetricsEndpoints"]
        for each in end["relabelings"]
        if each["targetLabel"] == "job"
    }
    assert ours == theirs
