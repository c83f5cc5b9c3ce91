"""A federation of virtual clients over a private broker, for the examples that have many."""

import argparse
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from broker_config.declaration.federation import Federation, Fleet
from broker_config.node import lifecycle
from broker_config.secrets.bundles import bundle_path
from coordinator_worker.state.training_state import State
from coordinator_worker.storage import checkpoint
from warren_examples.stage.processes import Child, ChildFailed
from warren_shared.errors import BrokerConfigError, ConfigError, WarrenError
from warren_shared.service import lifecycle as service

PAUSE_S = 0.1


@dataclass(frozen=True)
class FleetStage:
    """A running broker whose one fleet has ``size`` places; logs and checkpoints are in ``out``."""

    out: Path
    fleet: str
    size: int

    def run(
        self,
        name: str,
        task: Sequence[str],
        coordinator: Sequence[str],
        deadline_s: float = 900,
        processes: int = 1,
    ) -> State:
        """Train ``task`` once with as many virtual clients as there are places; the last state.

        They are dealt out to so many ``processes`` alike.
        Raises ChildFailed if a process fails or it takes longer than ``deadline_s``.
        """
        home, folder = self.out / "broker", self.out / "checkpoints" / name
        for old in checkpoint.NAMES:
            (folder / old).unlink(missing_ok=True)
        each = str(self.size // processes)
        fleet = ("--fleet", self.fleet, "--virtual", each, "--task", *task)
        told = ("--checkpoint-dir", str(folder), *coordinator)
        children: list[Child] = []
        try:
            for number, (command, user, words) in enumerate(
                (
                    *[("client-worker", self.fleet, fleet)] * processes,
                    ("coordinator-worker", "coordinator", told),
                )
            ):
                ending = f"-{number}" if 0 < number < processes else ""
                log = self.out / "logs" / f"{name}-{command}{ending}.log"
                children.append(Child(command, command, bundle_path(home, user), log, *words))
            self._wait(children, time.monotonic() + deadline_s)
        finally:
            for child in children:
                child.stop()
        state = checkpoint.load(folder)
        if state is None:
            raise ChildFailed(f"{name} left no checkpoint")
        return state

    @staticmethod
    def _wait(children: Sequence[Child], deadline: float) -> None:
        while any(child.process.poll() is None for child in children):
            for child in children:
                child.check(may_end=True)
            if time.monotonic() > deadline:
                raise ChildFailed(f"it takes too long (log: {children[-1].log})")
            time.sleep(PAUSE_S)
        for child in children:
            child.check(may_end=True)


@contextmanager
def fleet_stage(out: Path, fleet: str, size: int, model_bytes: int) -> Iterator[FleetStage]:
    """A broker of its own, which ends with the context."""
    try:
        (out / "logs").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--out {out} cannot be written to: {error.strerror}") from None
    federation = Federation(clients=(), fleets=(Fleet(fleet, size),), model_bytes=model_bytes)
    try:
        lifecycle.up(out / "broker", federation)
        yield FleetStage(out, fleet, size)
    except BrokerConfigError as error:
        raise WarrenError(str(error)) from None
    finally:
        lifecycle.down(out / "broker")


def main(
    name: str,
    files: Sequence[str],
    where: str,
    play: Callable[[argparse.Namespace], None],
    argv: Sequence[str],
) -> int:
    """Run an example with ``--data FOLDER``, which must hold ``files``; the exit code."""
    flags = argparse.ArgumentParser(prog=f"python -m warren_examples.{name}")
    flags.add_argument("--data", type=Path, required=True, help=where)
    flags.add_argument("--out", type=Path, default=Path("runs") / name.replace("_", "-"))
    flags.add_argument("--rounds", type=int, default=None, help="instead of the example's own")
    given = flags.parse_args(argv)
    given.data = given.data.resolve()
    for number in (signal.SIGTERM, signal.SIGHUP):  # leave nothing running then either
        signal.signal(number, signal.default_int_handler)

    def checked() -> None:
        for file in files:
            if not (given.data / file).is_file():
                raise ConfigError(f"there is no {given.data / file}: {where}")
        play(given)

    return service.run(name, checked)
