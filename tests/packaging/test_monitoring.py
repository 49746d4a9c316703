"""Alert rules, dashboard, and what a cluster's Prometheus and its adapter get to see: they parse,
name metrics that exist, and say what they should."""

import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.server import ROOT
from handler.errors import Kind
from tests.support.documents import text_of, yaml_of
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

CONFIG, RULES = "deploy/prometheus/prometheus.yml", "deploy/prometheus/alerts.yml"
SOURCES = "deploy/grafana/provisioning/datasources/prometheus.yml"
GUIDE = text_of("docs/operations/kubernetes.md")
TESTS = Path(__file__).parent / "alerts.yml"
_WORDS = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
_LANGUAGE = {
    "sum", "rate", "by", "or", "and", "vector", "absent", "clamp_min", "histogram_quantile", "time",
}  # fmt: skip


def dashboard() -> Any:
    return json.loads(text_of("deploy/grafana/dashboards/dcgan.json"))


def panels() -> Iterator[Any]:
    yield from (panel for panel in dashboard()["panels"] if panel["type"] != "row")


def expressions() -> dict[str, str]:
    """Every PromQL expression of dashboard and rules, Grafana's variable filled in."""
    found = {a["alert"]: a["expr"] for a in alerts()}
    for panel in panels():
        for target in panel["targets"]:
            found[f"{panel['title']} {target['refId']}"] = target["expr"]
    for note in dashboard()["annotations"]["list"]:
        found |= {note["name"]: note["expr"]} if "expr" in note else {}
    return {name: e.replace("$__rate_interval", "1m") for name, e in found.items()}


def alerts() -> list[Any]:
    return [rule for group in yaml_of(RULES)["groups"] for rule in group["rules"]]


def exported() -> set[str]:
    """Names at Prometheus: TorchServe's and the handler's, the proxy's, Prometheus' own."""
    proxys = re.findall(r"# TYPE (\w+) ", text_of("deploy/proxy/proxy.js"))
    return declared_metrics() | {"up", "ALERTS", *proxys}


def test_every_expression_names_metrics_that_are_exported() -> None:
    known, used = exported(), set()
    for name, expression in expressions().items():
        bare = re.sub(r"\{[^}]*\}|\[[^]]*\]|by \([^)]*\)|\b\d[\w.]*", " ", expression)
        words = set(_WORDS.findall(bare)) - _LANGUAGE
        assert words, name
        assert words <= known, f"{name}: {words - known}"
        used |= words
    ours = {name for name in known if name.startswith("dcgan_")}
    unused = {n for n in ours - used if not n.endswith(("_sum", "_count"))}
    unused -= {"dcgan_batch_fill_ratio_bucket", "dcgan_batch_images_ratio_bucket"}
    assert not unused, f"exported, but on no panel and in no alert: {unused}"


def test_every_label_is_one_that_the_metric_has() -> None:
    labels = {
        metric["name"]: {*metric["dimensions"], "le"}
        for block in yaml_of("handler/metrics.yaml").values()
        for metrics in block.values()
        for metric in metrics
    } | {"dcgan_proxy_replies_total": {"status", "by"}}
    seen = 0
    for name, expression in expressions().items():
        for metric, inside in re.findall(r"(\w+)\{([^}]*)\}", expression):
            if metric in labels:
                used = set(re.findall(r"(\w+)\s*[=!]", inside))
                assert used <= labels[metric], f"{name}: {metric} has no {used - labels[metric]}"
                seen += 1
    assert seen > 2


def test_the_dashboard_is_one_that_grafana_loads() -> None:
    uids = {source["uid"] for source in yaml_of(SOURCES)["datasources"]}
    board = dashboard()
    assert board["uid"]
    assert board["schemaVersion"] >= 36
    assert board.get("id") is None  # Grafana gives the id itself
    ids = [panel["id"] for panel in board["panels"]]
    assert len(ids) == len(set(ids))
    covered: set[tuple[int, int]] = set()
    for panel in board["panels"]:
        place = panel["gridPos"]
        assert 0 < place["w"] <= 24 - place["x"]
        cells = {
            (place["x"] + i, place["y"] + j) for i in range(place["w"]) for j in range(place["h"])
        }
        assert not cells & covered, f"{panel['title']} lies over another panel"
        covered |= cells
    for panel in panels():
        assert panel["datasource"]["uid"] in uids
        refs = [target["refId"] for target in panel["targets"]]
        assert len(refs) == len(set(refs)) > 0
        assert all(target["datasource"]["uid"] in uids for target in panel["targets"])


def test_grafana_looks_where_compose_puts_the_files() -> None:
    grafana = yaml_of("docker-compose.yml")["services"]["grafana"]
    provider = yaml_of("deploy/grafana/provisioning/dashboards/dcgan.yml")
    folder = provider["providers"][0]["options"]["path"]
    assert f"./deploy/grafana/dashboards:{folder}:ro" in grafana["volumes"]
    home = grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert home == f"{folder}/dcgan.json"


def test_the_scrape_interval_is_what_grafana_believes() -> None:
    believed = yaml_of(SOURCES)["datasources"][0]["jsonData"]["timeInterval"]
    assert believed == yaml_of(CONFIG)["global"]["scrape_interval"]


@needs_promtool
def test_prometheus_takes_its_settings() -> None:
    promtool("check", "config", "--lint-fatal", CONFIG)


@needs_promtool
def test_the_targets_of_several_servers_as_the_documentation_lists_them(tmp_path: Path) -> None:
    shown = r"(?s)```yaml\n(scrape_configs:\n.*?)```"
    (example,) = re.findall(shown, text_of("docs/operations/faults.md"))
    file = tmp_path / "prometheus.yml"
    file.write_text(example)
    promtool("check", "config", "--lint-fatal", file)
    usual = {
        job["job_name"]: job.get("metrics_path", "/metrics")
        for job in yaml_of(CONFIG)["scrape_configs"]
    }
    for job in yaml.safe_load(example)["scrape_configs"]:
        for number, target in enumerate(job["static_configs"], 1):
            path = f"/servers/{number}{usual[job['job_name']]}"
            assert target["labels"] == {"server": str(number), "__metrics_path__": path}


def test_what_alerts_ask_of_the_proxy_is_there_before_it_happens() -> None:
    """To Prometheus a series that begins with 1 has not risen."""
    (table,) = re.findall(r"(?s)const REPLIES = \{(.*?)\};", text_of("deploy/proxy/proxy.js"))
    begun = {
        (by, int(status))
        for by, statuses in re.findall(r"(\w+): \[([\d, ]+)\]", table)
        for status in statuses.split(",")
    }
    handlers = {("torchserve", kind.status) for kind in Kind}
    proxys = {
        ("proxy", int(status))
        for status in re.findall(r"    return (\d+) '", text_of("deploy/proxy/problems.conf"))
        if status != "429"
    }
    assert {("torchserve", 200), ("rate", 429), ("key", 429), ("all", 429)} <= begun
    assert handlers | proxys <= begun


@needs_promtool
def test_every_expression_of_the_dashboard_parses(tmp_path: Path) -> None:
    rules = [
        {"record": f"x:panel:{i}", "expr": expression}
        for i, expression in enumerate(expressions().values())
    ]
    file = tmp_path / "rules.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
    assert f"{len(rules)} rules found" in promtool("check", "rules", file)


@needs_promtool
def test_each_alert_fires_on_planted_series_and_only_then(tmp_path: Path) -> None:
    planted = tmp_path / "alerts.yml"
    planted.write_text(TESTS.read_text().replace("@RULES@", str(ROOT / RULES)))
    promtool("test", "rules", planted)


def test_no_alert_is_left_out_of_those_tests() -> None:
    checks = [c for t in yaml.safe_load(TESTS.read_text())["tests"] for c in t["alert_rule_test"]]
    names = {a["alert"] for a in alerts()}
    assert {c["alertname"] for c in checks if "exp_alerts" in c} == names
    assert {c["alertname"] for c in checks if "exp_alerts" not in c} == names


def adapter_rules() -> dict[str, dict[str, Any]]:
    values = yaml_of("deploy/kubernetes/components/autoscaling/prometheus-adapter-values.yaml")
    return {rule["name"]["as"]: rule for rule in values["rules"]["custom"]}


def test_the_autoscalers_metrics_have_rules_over_series_that_exist(overlay: list[Manifest]) -> None:
    metrics = only(overlay, "HorizontalPodAutoscaler")["spec"]["metrics"]
    rules = adapter_rules()
    assert {metric["pods"]["metric"]["name"] for metric in metrics} == set(rules)
    for rule in rules.values():
        asked = {rule["seriesQuery"].partition("{")[0]}
        asked |= set(re.findall(r"(\w+)\{<<\.LabelMatchers>>\}", rule["metricsQuery"]))
        assert asked <= declared_metrics() | {"dcgan_workers"}  # that one is the proxy's
    assert "`dcgan_workers ${" in text_of("deploy/proxy/proxy.js")


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
    assert rule["spec"] == yaml_of(RULES), f"run: {command}"
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
    names = [rule["alert"] for rule in alerts()]
    assert re.findall(r"^\| (Dcgan\w+) \|", GUIDE, re.MULTILINE) == names


def test_the_jobs_have_the_names_of_the_alerts_and_dashboards(overlay: list[Manifest]) -> None:
    theirs = {
        each.get("metrics_path", "/metrics"): each["job_name"]
        for each in yaml_of(CONFIG)["scrape_configs"]
        if each["job_name"] != "prometheus"
    }
    ours = {
        end["path"]: each["replacement"]
        for end in only(overlay, "PodMonitor")["spec"]["podMetricsEndpoints"]
        for each in end["relabelings"]
        if each["targetLabel"] == "job"
    }
    assert ours == theirs
