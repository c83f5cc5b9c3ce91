"""The Kubernetes manifests: valid for Kubernetes, and what they start is what we have."""

import json
import os
import subprocess
import time
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from broker_config.declaration.topology import Federation, topology
from client_worker.settings import ClientSettings
from client_worker.tasks.task import TaskSource
from coordinator_worker.settings import CoordinatorSettings
from tests.support.documents import blocks
from tests.support.processes import ROOT
from warren_shared import naming
from warren_shared.config.settings import load

FOLDER = ROOT / "deploy" / "kubernetes"
# As `kubectl apply --kustomize` sends them: kustomize is a part of kubectl and needs no cluster.
BUILT = subprocess.run(
    ["kubectl", "kustomize", str(FOLDER)], stdout=subprocess.PIPE, text=True, check=True
).stdout
RESOURCES = [dict(resource) for resource in yaml.safe_load_all(BUILT)]
CLUSTER = "RabbitmqCluster"
WORKERS = {"coordinator": CoordinatorSettings, "client": ClientSettings}


def named(kind: str, name: str) -> dict[str, Any]:
    (found,) = [r for r in RESOURCES if r["kind"] == kind and r["metadata"]["name"] == name]
    return dict(found)


def container(name: str) -> dict[str, Any]:
    (found,) = named("Deployment", name)["spec"]["template"]["spec"]["containers"]
    return dict(found)


@pytest.mark.parametrize(
    "resource", [pytest.param(r, id=r["kind"]) for r in RESOURCES if r["kind"] != CLUSTER]
)
@pytest.mark.parametrize("version", ["1.30", kubernetes_validate.latest_version()])
def test_kubernetes_takes_it(resource: dict[str, Any], version: str) -> None:
    kubernetes_validate.validate(resource, version, strict=True)
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(resource | {"speck": {}}, version, strict=True)


def test_kustomize_leaves_nothing_out() -> None:
    plain = [
        resource
        for name in ("broker", "workers")
        for resource in yaml.safe_load_all((FOLDER / f"{name}.yaml").read_text())
    ]
    assert len(RESOURCES) == len(plain)
    assert all(resource in RESOURCES for resource in plain)


def test_an_overlay_changes_what_it_names(tmp_path: Path) -> None:
    base = os.path.relpath(FOLDER, tmp_path)
    block = next(b for b in blocks("docs/deploy.md", "yaml") if "Kustomization" in b.text)
    (tmp_path / "kustomization.yaml").write_text(block.text.replace("../deploy/kubernetes", base))
    built = subprocess.run(
        ["kubectl", "kustomize", str(tmp_path)], stdout=subprocess.PIPE, text=True, check=True
    ).stdout
    changed = [r for r in yaml.safe_load_all(built) if r not in RESOURCES]
    kinds = {(r["kind"], r["metadata"]["name"]): r["spec"] for r in changed}
    assert set(kinds) == {(CLUSTER, "broker"), ("Deployment", "client")}
    assert kinds[CLUSTER, "broker"]["replicas"] == 1
    (container,) = kinds["Deployment", "client"]["template"]["spec"]["containers"]
    assert container["image"] == "registry.example/warren-client:0.2.0"


def test_the_cluster_operator_takes_the_broker() -> None:
    schema = json.loads((Path(__file__).parent / "rabbitmq_cluster.schema.json").read_text())
    jsonschema.validate(named(CLUSTER, "broker"), schema)
    lines = named(CLUSTER, "broker")["spec"]["rabbitmq"]["additionalConfig"].splitlines()
    settings = dict(line.split(" = ") for line in lines)
    assert int(settings["max_message_size"]) >= 2 * naming.CHUNK_BYTES


@pytest.mark.parametrize("worker", WORKERS)
def test_a_worker_takes_its_command_line(worker: str, monkeypatch: pytest.MonkeyPatch) -> None:
    program, *words = container(worker)["command"]
    assert program == f"{worker}-worker"
    bundle = [word for word in words if word.startswith("--env-file=")]
    words = [word for word in words if word not in bundle]
    words += ["--broker-url", "amqp://a:b@broker/warren"]
    given, rest = load(WORKERS[worker], description="", argv=words, keep_unknown=True)
    assert rest == []
    (mount,) = [m for m in container(worker)["volumeMounts"] if m["name"] == "bundle"]
    assert bundle == [f"--env-file={mount['mountPath']}/{worker}.env"]
    assert worker in {user.name for user in topology(Federation()).users}
    assert given.federation == "warren"
    if isinstance(given, ClientSettings):
        TaskSource(given.task, [])  # it is there
    else:
        assert given.quorum <= named("Deployment", "client")["spec"]["replicas"]
        assert given.rounds is None  # or it would be started for nothing, again and again


@pytest.mark.parametrize("worker", WORKERS)
def test_probes_tell_ready_away_and_hanging_apart(worker: str, tmp_path: Path) -> None:
    (told,) = [w for w in container(worker)["command"] if w.startswith("--ready-file=")]
    file = tmp_path / "ready"

    def probe(kind: str) -> int:
        command = container(worker)[kind]["exec"]["command"]
        words = [word.replace(told.partition("=")[2], str(file)) for word in command]
        return subprocess.run(words, check=False).returncode

    assert (probe("readinessProbe"), probe("livenessProbe")) == (1, 0)  # the broker is away
    file.touch()
    assert (probe("readinessProbe"), probe("livenessProbe")) == (0, 0)
    os.utime(file, (0, time.time() - 600))
    assert probe("livenessProbe") == 1


@pytest.mark.parametrize("worker", WORKERS)
def test_a_slow_start_is_no_hanging_and_a_loaded_image_is_not_pulled(worker: str) -> None:
    start = container(worker)["startupProbe"]
    assert start["exec"] == container(worker)["readinessProbe"]["exec"]
    assert start["periodSeconds"] * start["failureThreshold"] >= 300
    assert container(worker)["imagePullPolicy"] == "IfNotPresent"


def test_everything_together_asks_for_less_than_two_processors() -> None:
    """1.2 of them, on one machine or more: three broker nodes, the coordinator, four clients."""
    broker = named(CLUSTER, "broker")["spec"]
    asked = int(broker["resources"]["requests"]["cpu"].rstrip("m")) * broker["replicas"]
    for worker in WORKERS:
        each = int(container(worker)["resources"]["requests"]["cpu"].rstrip("m"))
        asked += each * int(named("Deployment", worker)["spec"]["replicas"])
    assert asked <= 1200


def test_workers_reach_the_broker_and_prometheus_the_coordinator() -> None:
    broker, workers = named("NetworkPolicy", "broker"), {"app.kubernetes.io/part-of": "warren"}
    first = broker["spec"]["ingress"][0]
    assert first["from"] == [{"podSelector": {"matchLabels": workers}}]
    assert {entry["port"] for entry in first["ports"]} == {5671, 5672}
    for worker in WORKERS:
        labels = named("Deployment", worker)["spec"]["template"]["metadata"]["labels"]
        assert workers.items() <= labels.items()
    (rule,) = named("NetworkPolicy", "coordinator-shows-its-metrics")["spec"]["ingress"]
    (port,) = container("coordinator")["ports"]
    assert rule["ports"] == [{"port": port["containerPort"]}]
    assert "--metrics-address=0.0.0.0" in container("coordinator")["command"]


@pytest.mark.parametrize("worker", WORKERS)
def test_workers_run_without_privileges_and_write_only_where_a_volume_is(worker: str) -> None:
    pod = named("Deployment", worker)["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert str(pod["securityContext"]["runAsUser"]) in (ROOT / "Dockerfile").read_text()
    assert container(worker)["securityContext"]["readOnlyRootFilesystem"] is True
    writable = [m["mountPath"] for m in container(worker)["volumeMounts"] if "readOnly" not in m]
    words = dict(word.split("=", 1) for word in container(worker)["command"] if "=" in word)
    written = [words[flag] for flag in ("--ready-file", "--checkpoint-dir") if flag in words]
    assert all(any(path.startswith(folder) for folder in writable) for path in written)
