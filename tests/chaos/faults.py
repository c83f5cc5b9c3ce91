"""What goes wrong. Each fault does its harm, lets it last a while, and mends it."""

import os
import resource
import signal
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from typing import Final

from broker_config.node import lifecycle as private_node
from broker_config.node.record import Node
from tests.chaos.poison import publish_poison
from tests.chaos.stage import CLIENTS, Stage
from tests.support import inside
from tests.support.relay import Relay
from warren_shared.errors import BrokerConfigError

Fault = Callable[[Stage], None]


def kill_client(stage: Stage) -> None:
    stage.crew.send(stage.random.choice(CLIENTS), signal.SIGKILL)


def stop_client(stage: Stage) -> None:
    stage.crew.send(stage.random.choice(CLIENTS), signal.SIGTERM)


def halt_client(stage: Stage) -> None:
    _halt(stage, stage.crew.pid(stage.random.choice(CLIENTS)), 1.0)


def kill_coordinator(stage: Stage) -> None:
    stage.crew.send(_coordinator(stage), signal.SIGKILL)


def stop_coordinator(stage: Stage) -> None:
    stage.crew.send(_coordinator(stage), signal.SIGTERM)


def kill_both_coordinators(stage: Stage) -> None:
    for name in stage.crew.names("coordinator"):
        stage.crew.send(name, signal.SIGKILL)


def halt_coordinator(stage: Stage) -> None:
    """For longer than the broker waits for a heartbeat, now and then."""
    _halt(stage, stage.crew.pid(_coordinator(stage)), stage.random.choice([0.5, 1.0, 10.0]))


def kill_broker(stage: Stage) -> None:
    os.kill(stage.node.pid, signal.SIGKILL)
    stage.pause(stage.random.uniform(0.0, 1.0))
    stage.mend_broker()
    stage.wait_for_progress()


def restart_broker(stage: Stage) -> None:
    private_node.down(stage.home)
    stage.mend_broker()
    stage.wait_for_progress()


def halt_broker(stage: Stage) -> None:
    _halt(stage, stage.node.pid, stage.random.choice([0.5, 2.0, 10.0]))


def cut_wire(stage: Stage) -> None:
    """In the middle of a message, mostly."""
    _wire(stage).cut_after(stage.random.randrange(1, 4096 * 16))


def cut_wire_at_once(stage: Stage) -> None:
    _wire(stage).cut()


def hold_wire(stage: Stage) -> None:
    wire = _wire(stage)
    wire.hold()
    stage.pause(stage.random.uniform(0.2, 1.5))
    stage.random.choice([wire.release, wire.cut])()


def slow_wire(stage: Stage) -> None:
    wire = _wire(stage)
    wire.slow(0.05)
    stage.pause(1.0)
    wire.release()


def half_close_wire(stage: Stage) -> None:
    _wire(stage).half_close()


def close_connections(stage: Stage) -> None:
    """By the management API, as an operator would."""
    with stage.management() as management:
        for connection in stage.connections():
            if stage.random.random() < 0.5:
                with suppress(BrokerConfigError):  # gone by itself
                    management.delete("connections", connection["name"])


def memory_alarm(stage: Stage) -> None:
    _alarm(stage, inside.memory_alarm)


def disk_alarm(stage: Stage) -> None:
    _alarm(stage, inside.disk_alarm)


def consumer_timeout(stage: Stage) -> None:
    """The broker ends the coordinator's channel, since its deliveries stay unacknowledged."""
    halted = stage.random.sample(CLIENTS, 5)  # too few are left for a quorum
    with inside.consumer_timeout(stage.node, 0.5):
        close_connections(stage)
        for name in halted:
            stage.crew.send(name, signal.SIGSTOP)
        stage.pause(2.5)
        for name in halted:
            stage.crew.send(name, signal.SIGCONT)
    stage.wait_for_progress()


def delete_mailbox(stage: Stage) -> None:
    name = f"model.{stage.random.choice(CLIENTS)}"
    with stage.management() as management, suppress(BrokerConfigError):
        management.delete("queues", stage.federation.name, name)
    stage.pause(0.2)
    stage.mend_broker()


def refuse_checkpoint(stage: Stage) -> None:
    """No coordinator may write a byte beyond the hundredth of any file."""
    _limit_files(stage, 100)
    stage.pause(stage.random.uniform(0.2, 2.0))
    _limit_files(stage, resource.RLIM_INFINITY)


def fill_disk(stage: Stage) -> None:
    """The checkpoint's disk, which is a small one of its own."""
    filler = stage.checkpoints / "filler"
    with suppress(OSError), filler.open("wb") as file:
        for _ in range(256):  # MiB; the disk has 64
            file.write(bytes(1 << 20))
            file.flush()
    stage.pause(stage.random.uniform(0.2, 2.0))
    filler.unlink(missing_ok=True)


def jump_clock(stage: Stage) -> None:
    stage.shift_clock(stage.random.choice([-86400.0, -1.0, 0.0, 3600.0, 86400.0 * 400]))


def poison(stage: Stage) -> None:
    publish_poison(stage)


# Frequencies: what is cheap often, what stops everybody for seconds seldom.
FAULTS: Final[dict[Fault, float]] = {
    kill_client: 14,
    stop_client: 4,
    halt_client: 2,
    kill_coordinator: 8,
    stop_coordinator: 4,
    kill_both_coordinators: 2,
    halt_coordinator: 1.5,
    kill_broker: 1,
    restart_broker: 0.5,
    halt_broker: 0.7,
    cut_wire: 10,
    cut_wire_at_once: 8,
    hold_wire: 5,
    slow_wire: 2,
    half_close_wire: 4,
    close_connections: 4,
    memory_alarm: 1,
    disk_alarm: 1,
    consumer_timeout: 0.7,
    delete_mailbox: 2,
    refuse_checkpoint: 2,
    fill_disk: 1,
    jump_clock: 4,
    poison: 6,
}


def _coordinator(stage: Stage) -> str:
    return stage.random.choice(stage.crew.names("coordinator"))


def _wire(stage: Stage) -> Relay:
    return stage.wires[stage.random.choice(sorted(stage.wires))]


def _halt(stage: Stage, pid: int, seconds: float) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGSTOP)
        stage.pause(seconds)
        os.kill(pid, signal.SIGCONT)


def _alarm(stage: Stage, alarm: Callable[[Node], AbstractContextManager[None]]) -> None:
    with alarm(stage.node):
        stage.pause(stage.random.uniform(0.5, 2.0))
    stage.wait_for_progress()


def _limit_files(stage: Stage, size_bytes: int) -> None:
    for name in stage.crew.names("coordinator"):
        with suppress(ProcessLookupError):
            limits = (size_bytes, resource.RLIM_INFINITY)
            resource.prlimit(stage.crew.pid(name), resource.RLIMIT_FSIZE, limits)
