"""The chart, rendered by Helm itself: valid for Kubernetes, with the pods of deploy/kubernetes."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import helm_python as helm
import jsonschema
import kubernetes_validate
import pytest
import yaml

from client_worker.settings import ClientSettings
from coordinator_worker.settings import CoordinatorSettings
from tests.support.command_lines import PROGRAMS, commands, complaint
from tests.support.documents import blocks
from tests.support.processes import ROOT
from tests.support.promql import asked
from warren_shared import naming
from warren_shared.config.settings import load

CHART: Final = ROOT / "deploy" / "helm" / "warren"
MANIFESTS: Final = ROOT / "deploy" / "kubernetes"
GRAFANA: Final = ROOT / "deploy" / "grafana"
SCHEMAS: Final = Path(__file__).parent
NOTES: Final = "warren/templates/NOTES.txt"
WORKERS: Final = {"coordinator": CoordinatorSettings, "client": ClientSettings}

SITE: Final = {"name": "hospital-a", "task": "site_task:site"}
FULL_SITE: Final = SITE | {
    "args": ["--data=/data/records.csv"],
    "state": {"size": "1Gi", "className": "fast"},
    "data": {"claimName": "records", "mountPath": "/data"},
    "bundle": {"secretName": "site-a", "key": "site.env"},
    "env": [{"name": "WARREN_PROXY", "valueFrom": {"secretKeyRef": {"name": "p", "key": "url"}}}],
    "nodeSelector": {"disk": "ssd"},
    "tolerations": [{"operator": "Exists"}],
}
PHONES: Final = {"name": "phone", "task": "site_task:site", "autoscaling": {"max": 20}}
STANDBY: Final = {"standby": True, "checkpoint": {"accessMode": "ReadWriteMany"}}
TLS: Final = {"tls": {"secretName": "broker-tls"}}

CASES: Final[dict[str, dict[str, Any]]] = {
    "defaults": {},
    "one node": {"broker": {"replicas": 1}},
    "somebody else's broker": {"broker": {"enabled": False}, "networkPolicies": {"enabled": False}},
    "TLS": {"broker": TLS, "monitoring": {"enabled": True}},
    "TLS and plain": {"broker": {"tls": {"secretName": "broker-tls", "plainToo": True}}},
    "standby": {"coordinator": STANDBY | {"args": ["--keep-versions=10"]}},
    "a claim that is there": {"coordinator": {"checkpoint": {"existingClaim": "mine"}}},
    "clients": {"clients": [FULL_SITE, SITE | {"name": "hospital-b"}, PHONES]},
    "no client": {"clients": [], "imagePullSecrets": [{"name": "registry"}]},
    "monitoring": {"monitoring": {"enabled": True, "labels": {"release": "prometheus"}}},
    "as docs/deploy.md shows": yaml.safe_load(
        next(b.text for b in blocks("docs/deploy.md", "yaml") if b.text.startswith("clients:"))
    ),
    "more of rabbitmq.conf": {"broker": {"additionalConfig": "consumer_timeout = 3600000"}},
}  # fmt: skip


def rendered(values: dict[str, Any], chart: Path = CHART, revision: int = 1) -> dict[str, str]:
    """What ``helm install`` (revision 1) or ``helm upgrade`` would send, by template."""
    with helm.Chart.load(chart) as loaded:
        loaded.validate_schema(values)
        return loaded.render(
            values, name="trial", namespace="warren", revision=revision,
            is_install=revision == 1, is_upgrade=revision > 1,
        )  # fmt: skip


def resources(values: dict[str, Any], **options: Any) -> list[dict[str, Any]]:
    """The same as resources."""
    texts = rendered(values, **options)
    return [
        resource
        for template, text in texts.items()
        if template != NOTES
        for resource in yaml.safe_load_all(text)
        if resource
    ]


def named(kind: str, name: str, values: dict[str, Any] | None = None) -> dict[str, Any]:
    """The one resource of that kind and name."""
    return only(resources(values or {}), kind, name)


def only(found: list[dict[str, Any]], kind: str, name: str) -> dict[str, Any]:
    (one,) = [r for r in found if (r["kind"], r["metadata"]["name"]) == (kind, name)]
    return one


def pod(resource: dict[str, Any]) -> dict[str, Any]:
    """The pods that a Deployment or a StatefulSet makes."""
    return dict(resource["spec"]["template"]["spec"])


def check(resource: dict[str, Any], version: str) -> None:
    """Raise if Kubernetes, or the operator whose resource it is, would refuse it."""
    kind = resource["kind"]
    if kind == "RabbitmqCluster":
        schema = json.loads((SCHEMAS / "rabbitmq_cluster.schema.json").read_text())
        jsonschema.validate(resource, schema)
    elif resource["apiVersion"].partition("/")[0] in ("keda.sh", "monitoring.coreos.com"):
        schema = json.loads((SCHEMAS / "kubernetes_custom.schema.json").read_text())
        jsonschema.validate(resource, schema | {"$ref": f"#/$defs/{kind}"})
    else:
        kubernetes_validate.validate(resource, version, strict=True)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("version", ["1.30", kubernetes_validate.latest_version()])
def test_kubernetes_takes_all_of_it(case: str, version: str) -> None:
    found = resources(CASES[case])
    assert found
    for resource in found:
        check(resource, version)
        with pytest.raises((kubernetes_validate.ValidationError, jsonschema.ValidationError)):
            check(resource | {"speck": {}}, version)
    keys = [(r["kind"], r["metadata"]["name"]) for r in found]
    assert len(keys) == len(set(keys))


def test_helm_lint_finds_nothing() -> None:
    report = helm.lint(CHART, strict=True)
    assert report["errors"] == []
    # The one remark is that charts like to have a picture.
    assert {m["error"] for m in report["messages"]} <= {"icon is recommended"}


@pytest.mark.parametrize("worker", WORKERS)
def test_its_pods_are_those_of_the_plain_manifests(worker: str) -> None:
    plain = list(yaml.safe_load_all((MANIFESTS / "workers.yaml").read_text()))
    expected = only(plain, "Deployment", worker)
    found = named("Deployment", worker)
    assert pod(found) == pod(expected)
    for key in ("replicas", "strategy"):
        assert found["spec"].get(key) == expected["spec"].get(key)
    assert named("Deployment", worker)["spec"][
        "strategy" if worker == "coordinator" else "replicas"
    ]


def test_its_broker_is_that_of_the_plain_manifests() -> None:
    plain = list(yaml.safe_load_all((MANIFESTS / "broker.yaml").read_text()))
    for kind in ("RabbitmqCluster", "NetworkPolicy", "PodDisruptionBudget"):
        assert named(kind, "broker")["spec"] == only(plain, kind, "broker")["spec"]


@pytest.mark.parametrize("case", CASES)
def test_every_worker_takes_its_command_line(case: str) -> None:
    for resource in resources(CASES[case]):
        if resource["kind"] not in ("Deployment", "StatefulSet"):
            continue
        (container,) = pod(resource)["containers"]
        program, bundle, *words = container["command"]
        secret = next(v for v in pod(resource)["volumes"] if v["name"] == "bundle")["secret"]
        assert re.fullmatch(r"--env-file=/run/warren/[\w-]+\.env", bundle)
        assert secret["secretName"]
        words += ["--broker-url", "amqp://a:b@broker/warren"]
        settings = WORKERS[program.removesuffix("-worker")]
        _, rest = load(settings, description="", argv=words, keep_unknown=True)
        assert rest == [word for word in words if word.startswith("--data=")]  # the task's own


def test_a_client_has_its_own_bundle_and_no_other() -> None:
    found = resources(CASES["clients"])
    secrets = {}
    for resource in found:
        if resource["kind"] in ("Deployment", "StatefulSet"):
            volumes = [v["secret"]["secretName"] for v in pod(resource)["volumes"] if "secret" in v]
            secrets[resource["metadata"]["name"]] = volumes
    assert secrets == {
        "coordinator": ["coordinator-bundle"],
        "hospital-a": ["site-a"],
        "hospital-b": ["hospital-b-bundle"],
        "phone": ["phone-bundle"],
    }
    assert not [r for r in found if r["kind"] == "Secret"]


def test_a_client_with_a_state_has_a_volume_for_each_replica() -> None:
    site = named("StatefulSet", "hospital-a", CASES["clients"])
    (claim,) = site["spec"]["volumeClaimTemplates"]
    (container,) = pod(site)["containers"]
    assert "--state-dir=/var/lib/warren" in container["command"]
    mounts = {m["name"]: m for m in container["volumeMounts"]}
    assert mounts[claim["metadata"]["name"]]["mountPath"] == "/var/lib/warren"
    assert mounts["data"] == {"name": "data", "mountPath": "/data", "readOnly": True}


def changed_chart(folder: Path) -> Path:
    """The next version of the chart, and of what it installs."""
    copied = folder / "warren"
    shutil.copytree(CHART, copied)
    text = (copied / "Chart.yaml").read_text()
    (copied / "Chart.yaml").write_text(re.sub(r"(ersion): \d+\.\d+\.\d+", r"\1: 9.9.9", text))
    return copied


@pytest.mark.parametrize("kind", ["Deployment", "PersistentVolumeClaim"])
def test_an_upgrade_leaves_the_coordinator_alone(kind: str, tmp_path: Path) -> None:
    name = {"Deployment": "coordinator", "PersistentVolumeClaim": "checkpoint"}[kind]
    other: dict[str, Any] = CASES["clients"] | {"broker": TLS, "monitoring": {"enabled": True}}
    upgraded = resources(other, chart=changed_chart(tmp_path), revision=7)
    after = only(upgraded, kind, name)
    assert after["metadata"]["labels"]["helm.sh/chart"] == "warren-9.9.9"
    assert after["spec"] == named(kind, name)["spec"]


def test_what_is_the_coordinators_own_restarts_it() -> None:
    assert pod(named("Deployment", "coordinator", {"coordinator": {"quorum": 7}})) != pod(
        named("Deployment", "coordinator")
    )


def test_a_standby_shares_the_checkpoint_or_is_refused() -> None:
    found = named("Deployment", "coordinator", {"coordinator": STANDBY})
    assert found["spec"]["replicas"] == 2
    assert found["spec"]["strategy"]["rollingUpdate"] == {"maxSurge": 0, "maxUnavailable": 1}
    claim = named("PersistentVolumeClaim", "checkpoint", {"coordinator": STANDBY})
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    with pytest.raises(helm.HelmError, match=r"set coordinator\.checkpoint\.accessMode"):
        rendered({"coordinator": {"standby": True}})


@pytest.mark.parametrize(
    "values",
    [
        pytest.param({"broker": {"replicas": 2}}, id="two nodes"),
        pytest.param({"coordinator": {"quorum": "four"}}, id="a quorum in words"),
        pytest.param({"coordinators": {}}, id="a misspelling"),
        pytest.param({"clients": [{"name": "a"}]}, id="no task"),
        pytest.param({"clients": [SITE | {"name": "Hospital_A"}]}, id="no name of Kubernetes"),
        pytest.param({"clients": [SITE | {"name": "coordinator"}]}, id="the coordinator's name"),
        pytest.param({"clients": [SITE | {"password": "x"}]}, id="a secret"),
        pytest.param({"coordinator": {"args": ["--broker-url=amqp://a:b@c"]}}, id="a login"),
        pytest.param({"coordinator": {"args": ["--rounds=20"]}}, id="rounds that end"),
    ],
)
def test_wrong_values_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(helm.HelmValuesError):
        rendered(values)


def test_the_defaults_fit_two_processors() -> None:
    """1.2 of them: the rest is Kubernetes' own, and what the operator runs."""
    asked_for = 0
    for resource in resources({}):
        replicas = resource.get("spec", {}).get("replicas", 0)
        if resource["kind"] == "RabbitmqCluster":
            asked_for += replicas * millis(resource["spec"]["resources"])
        elif resource["kind"] in ("Deployment", "StatefulSet"):
            asked_for += replicas * sum(millis(c["resources"]) for c in pod(resource)["containers"])
    assert 0 < asked_for <= 1200


def millis(requirements: dict[str, Any]) -> int:
    return int(requirements["requests"]["cpu"].removesuffix("m"))


def test_its_alerts_are_those_of_grafanas_folder() -> None:
    rules = named("PrometheusRule", "warren", CASES["monitoring"])
    assert rules["spec"] == yaml.safe_load((GRAFANA / "alerts.yml").read_text())


def test_its_jobs_are_those_that_dashboard_and_alerts_know() -> None:
    settings = yaml.safe_load((GRAFANA / "prometheus.yml").read_text())
    expected = {job["job_name"]: job for job in settings["scrape_configs"]}
    found = resources(CASES["monitoring"])
    for monitor in (r for r in found if r["kind"] == "ServiceMonitor"):
        for endpoint in monitor["spec"]["endpoints"]:
            (relabeling,) = endpoint["relabelings"]
            job = expected.pop(relabeling["replacement"])
            assert endpoint.get("path", "/metrics") == job.get("metrics_path", "/metrics")
            assert endpoint.get("params") == job.get("params")
    assert set(expected) == {"warren-client"}  # nobody connects to a client
    service = only(found, "Service", "coordinator")
    (port,) = pod(only(found, "Deployment", "coordinator"))["containers"][0]["ports"]
    assert service["spec"]["ports"] == [{"name": port["name"], "port": port["containerPort"]}]


def test_prometheus_is_let_in_where_the_broker_shows_its_metrics() -> None:
    for case, port in (("monitoring", "prometheus"), ("TLS", "prometheus-tls")):
        monitor = named("ServiceMonitor", "broker", CASES[case])
        assert {e["port"] for e in monitor["spec"]["endpoints"]} == {port}
        policy = named("NetworkPolicy", "broker", CASES[case])
        # What the cluster operator calls these ports.
        number = {"prometheus": 15692, "prometheus-tls": 15691}[port]
        assert policy["spec"]["ingress"][-1]["ports"] == [{"port": number}]


def test_nothing_but_tls_is_let_in_with_a_certificate() -> None:
    policy = named("NetworkPolicy", "broker", CASES["TLS"])
    ports = {p["port"] for rule in policy["spec"]["ingress"] for p in rule.get("ports", [])}
    assert ports == {5671, 15671, 15691}
    assert named("RabbitmqCluster", "broker", CASES["TLS"])["spec"]["tls"] == {
        "secretName": "broker-tls",
        "disableNonTLSListeners": True,
    }


def slots() -> tuple[str, Callable[[str], bool]]:
    """The metric that a fleet is scaled by, and whether a queue counts."""
    scaled = named("ScaledObject", "phone", CASES["clients"])
    (trigger,) = scaled["spec"]["triggers"]
    assert trigger["metricType"] == "AverageValue"  # so many replicas as there are slots
    assert trigger["metadata"]["threshold"] == "1"
    (selector,) = asked(trigger["metadata"]["query"]).selectors
    queues = {label: value for label, _, value in selector.matchers}["queue"]
    return selector.name, lambda queue: re.fullmatch(queues, queue) is not None


def test_a_fleet_is_scaled_by_its_slots_and_by_no_queues_depth() -> None:
    metric, counts = slots()
    assert metric == "rabbitmq_detailed_queue_consumers"
    for number in (0, 7, 123):
        mailbox = naming.mailbox(naming.fleet_member("phone", number))
        assert counts(mailbox)
        assert counts(naming.spare(mailbox))
    for queue in (naming.UPDATE_QUEUE, "model.phone", "model.phones.1", "model.a-phone.1"):
        assert not counts(queue)


def test_who_is_scaled_keeps_the_replicas_that_it_has_in_an_upgrade() -> None:
    assert "replicas" not in named("Deployment", "phone", CASES["clients"])["spec"]
    none = {"clients": [SITE | {"replicas": 0}]}
    assert named("Deployment", "hospital-a", none)["spec"]["replicas"] == 0


@pytest.mark.parametrize("case", CASES)
def test_the_commands_that_it_ends_with_exist(case: str) -> None:
    text = rendered(CASES[case])[NOTES]
    shown = "\n".join(line for line in text.splitlines() if line.startswith("   "))
    found = list(commands(shown))
    assert found
    assert [said for words in found if words[0] in PROGRAMS and (said := complaint(words))] == []
    secrets = {
        volume["secret"]["secretName"]
        for resource in resources(CASES[case])
        if resource["kind"] in ("Deployment", "StatefulSet")
        for volume in pod(resource)["volumes"]
        if "secret" in volume
    }
    assert secrets == set(re.findall(r"create secret generic (\S+)", text))
