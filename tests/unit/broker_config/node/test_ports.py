"""The ports of a private node, and of those beside it."""

from dataclasses import asdict
from pathlib import Path

import pytest

from broker_config.node import members, ports
from broker_config.node.ports import Ports
from broker_config.node.record import Node


def test_the_nodes_of_a_cluster_share_no_port_but_that_of_their_name_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ports, "_FREE", range(24_000, 24_014))
    first = Node(tmp_path, "warren@localhost", ports.settle(Ports(), Ports()), "rabbitmq-server")
    first, others = members.prepare(first, 3)
    every = [asdict(node.ports) for node in (first, *others)]
    assert len({each.pop("epmd") for each in every}) == 1
    assert all(each.pop("prometheus") == 0 for each in every)
    assert len({port for each in every for port in each.values()}) == 9
