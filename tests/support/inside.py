"""What a test changes inside a private node while it runs: alarms and timeouts."""

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

from broker_config.node import config_files
from broker_config.node.record import Node


def evaluate(node: Node, expression: str) -> str:
    """The value of an Erlang expression in ``node``, as Erlang writes it."""
    erl = shutil.which("erl")
    assert erl is not None, "no erl on the PATH: it comes with rabbitmq-server"
    quoted = expression.replace("\\", "\\\\").replace('"', '\\"')
    ask = (
        f'{{ok,T,_}}=erl_scan:string("{quoted}."),{{ok,E}}=erl_parse:parse_exprs(T),'
        f"io:format(\"~0p\",[rpc:call('{node.name}',erl_eval,exprs,[E,[]],20000)]),halt()."
    )
    flags = ["-noinput", "-hidden", "-start_epmd", "false", "-sname", f"ask-{node.pid}@localhost"]
    environment = config_files.environment(node.folder, node.name, node.ports)
    said = subprocess.run(
        [erl, *flags, "-kernel", "inet_dist_use_interface", "{127,0,0,1}", "-eval", ask],
        env={**environment, "ERL_AFLAGS": ""},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    value = said.stdout
    assert "badrpc" not in value, value
    return value


@contextmanager
def memory_alarm(node: Node) -> Iterator[None]:
    """As if the node had no memory left: it stops reading from connections that publish."""
    with _changed(node, "vm_memory_monitor:set_vm_memory_high_watermark({})", "0.0", "0.4"):
        yield


@contextmanager
def disk_alarm(node: Node) -> Iterator[None]:
    """As if the node's disk were full."""
    change = "rabbit_disk_monitor:set_disk_free_limit({})"
    with _changed(node, change, "100000000000000", "50000000"):
        yield


@contextmanager
def consumer_timeout(node: Node, seconds: float) -> Iterator[None]:
    """Channels that connect now are closed if a delivery stays unacknowledged for ``seconds``."""
    set_timeout = "application:set_env(rabbit,consumer_timeout,{})"
    set_tick = "application:set_env(rabbit,channel_tick_interval,{})"
    with (
        _changed(node, set_timeout, str(int(seconds * 1000)), "1800000"),
        _changed(node, set_tick, str(int(seconds * 500)), "60000"),
    ):
        yield


@contextmanager
def _changed(node: Node, expression: str, wanted: str, usual: str) -> Iterator[None]:
    evaluate(node, expression.format(wanted))
    try:
        yield
    finally:
        evaluate(node, expression.format(usual))
