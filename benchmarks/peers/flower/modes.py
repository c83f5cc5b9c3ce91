"""The modes of Flower: which processes make up each, and in which order they start."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final

from benchmarks.harness.processes import peak_rss_bytes
from benchmarks.peers.flower.federation import HOST, Federation, free_ports

CONFIG: Final = """\
[superlink]
default = "here"

[superlink.here]
address = "{host}:{port}"
insecure = true
"""
APP: Final = """\
[project]
name = "rounds"
version = "1.0.0"
dependencies = []

[tool.flwr.app]
publisher = "warren"

[tool.flwr.app.components]
serverapp = "rounds:server_app"
clientapp = "rounds:client_app"
"""
# Flower reads this file for assignments to these names before it imports it.
CODE: Final = """\
from benchmarks.peers.flower import app

server_app = app.server_app
client_app = app.client_app
"""


def deployed(federation: Federation) -> dict[str, Any]:
    """A SuperLink with its state in memory, a SuperNode for each client, and ``flwr run``."""
    port, *ports = free_ports(1 + federation.setting.clients)
    _write_app(federation, port)
    federation.start(
        "superlink", "flower-superlink", "--insecure", "--host", HOST, "--port", str(port)
    )
    federation.listening(port, "superlink")
    for client, own_port in enumerate(ports):
        federation.start(
            f"supernode-{client}", "flower-supernode", "--insecure",
            "--superlink", f"{HOST}:{port}", "--port", str(own_port),
            "--node-config", f"partition-id={client}",
        )  # fmt: skip
    federation.start("run", "flwr", "run", "app", "here", "--stream")  # ends when the run has ended
    figures = federation.told()
    superlink = federation.processes["superlink"]
    return {**figures, "superlink_rss_bytes": peak_rss_bytes(superlink.pid)}


def _write_app(federation: Federation, port: int) -> None:
    files = {
        "home/config.toml": CONFIG.format(host=HOST, port=port),
        "app/pyproject.toml": APP,
        "app/rounds.py": CODE,
    }
    for name, text in files.items():
        file = federation.folder / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)


def grpc(federation: Federation) -> dict[str, Any]:
    """``start_server`` in a process, ``start_client`` in a process for each client."""
    [port] = free_ports(1)
    federation.setting = replace(federation.setting, address=f"{HOST}:{port}")
    federation.start("server", "-m", "benchmarks.peers.flower.grpc_server")
    federation.listening(port, "server")  # a client that is too early waits a second
    for client in range(federation.setting.clients):
        federation.start(
            f"client-{client}", "-m", "benchmarks.peers.flower.grpc_client", str(client)
        )
    return federation.told("server")


def simulation(federation: Federation) -> dict[str, Any]:
    """``start_simulation`` in a process, which starts Ray."""
    ray_folder = str(federation.folder / "ray")
    federation.start("simulation", "-m", "benchmarks.peers.flower.simulation", ray_folder)
    return federation.told("simulation")


MODES: Final[Mapping[str, Callable[[Federation], dict[str, Any]]]] = {
    "deployed": deployed,
    "grpc": grpc,
    "simulation": simulation,
}
