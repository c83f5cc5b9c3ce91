"""How soon one more client process takes part, and how soon the place of a dead one is free again.

``python -m benchmarks.joining``: 50 ``client-worker`` processes are started with the same words,
one after the other as by hand, and all at once. *Ready* is when a process has imported everything
and begins to connect (its log's ``started``); it has *joined* when the coordinator's log says so.
Then ten are killed (SIGKILL), and ten new ones started; and ten are halted (SIGSTOP), which to the
broker is a machine that vanished: the connection stays, and only the heartbeat tells.
"""

import argparse
import random
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Final

from benchmarks.harness.crowd import FLEET, SIZE, SPARE, Crowd, members, story
from benchmarks.harness.federation import stand
from benchmarks.harness.preparation import prepare
from benchmarks.harness.processes import Worker, WorkerFailed
from benchmarks.reporting.report import RESULTS, publish
from benchmarks.reporting.rows import Row
from broker_config.declaration.federation import Federation, Fleet
from warren_shared.amqp.address import HEARTBEAT_S

JOINED_S: Final = 2.0  # what is wanted
HEARTBEATS: Final = 3  # after which RabbitMQ has certainly given a silent connection up


@dataclass
class Found:
    """Seconds of everything that was measured."""

    joined: list[float] = field(default_factory=list)
    contributed: list[float] = field(default_factory=list)
    freed: list[float] = field(default_factory=list)
    replaced: list[float] = field(default_factory=list)
    vanished: list[float] = field(default_factory=list)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, and write the report."""
    given = _parser().parse_args(argv)
    prepare()
    clients, leaving = (6, 2) if given.short else (50, 10)
    heartbeat_s = 1 if given.short else HEARTBEAT_S
    singly, together = Found(), Found()
    for number in range(given.repetitions or (1 if given.short else 3)):
        for found, at_once in ((singly, False), (together, True)):
            is_last = at_once and not number
            _run(found, clients, leaving, at_once, heartbeat_s if is_last else None)
    rows = _rows(singly, together, clients, leaving, heartbeat_s)
    publish("joining", "Joining: seconds from ready to joined, and until a place is free", rows,
            folder=given.out)  # fmt: skip
    return 0


def _run(
    found: Found, clients: int, leaving: int, at_once: bool, vanish_after_s: int | None
) -> None:
    fleet = Fleet(FLEET, clients + SPARE)
    federation = Federation(clients=(), fleets=(fleet,), model_bytes=4 * SIZE)
    with stand(federation) as on, ExitStack() as stack:
        crowd = Crowd(on, stack, clients, vanish_after_s)
        for number in range(clients):
            crowd.start()
            if not at_once:
                crowd.roll.wait_for(number + 1)
        crowd.roll.wait_for(clients, clients)
        known = {story(one.log)[0]: one for one in crowd.workers}
        if sorted(known) != sorted(members(clients)):
            raise WorkerFailed(f"the places are not the first {clients}: {sorted(known)}")
        for place, one in known.items():
            ready = story(one.log)[1]
            found.joined.append(crowd.roll.joined[place][0] - ready)
            found.contributed.append(crowd.roll.accepted[place] - ready)
        _kill(crowd, known, found, leaving)
        if vanish_after_s is not None:
            found.vanished += _halt(crowd, known, leaving)


def _kill(crowd: Crowd, known: dict[str, Worker], found: Found, leaving: int) -> None:
    """Kill some, and let as many new ones take exactly their places."""
    gone = random.sample(sorted(known), leaving)
    begin = time.time()
    for place in gone:
        known[place].process.kill()
    found.freed += [when - begin for _, when in crowd.free_places(gone)]
    before = len(crowd.workers)
    anew = [crowd.start() for _ in gone]
    crowd.roll.wait_for(before + leaving)
    for one in anew:
        place, ready = _settled(one)
        known[place] = one
        found.replaced.append(crowd.roll.joined[place][1] - ready)


def _settled(client: Worker) -> tuple[str, float]:
    """Its story, which is whole when it has been sent the model."""
    until = time.monotonic() + JOINED_S * 5
    while True:
        try:
            return story(client.log)
        except WorkerFailed:
            if time.monotonic() > until:
                raise
            time.sleep(0.01)


def _halt(crowd: Crowd, known: dict[str, Worker], leaving: int) -> list[float]:
    gone = random.sample(sorted(known), leaving)
    begin = time.time()
    for place in gone:
        known[place].process.send_signal(signal.SIGSTOP)
    freed = [when - begin for _, when in crowd.free_places(gone)]
    for place in gone:
        known[place].process.kill()
    return freed


def _rows(
    singly: Found, together: Found, clients: int, leaving: int, heartbeat_s: int
) -> list[Row]:
    wanted = (JOINED_S, "the 2 s that are wanted")
    promised = (float(HEARTBEATS * heartbeat_s), f"{HEARTBEATS} heartbeats of {heartbeat_s} s")
    freed, replaced = (singly.freed + together.freed, singly.replaced + together.replaced)
    return [
        _row(f"{clients} clients, one by one: joined", singly.joined, wanted, singly.contributed),
        _row(f"{clients} clients, all at once: joined", together.joined, wanted,
             together.contributed),
        _row(f"{leaving} killed: place free", freed, (float(heartbeat_s), "a heartbeat")),
        _row(f"{leaving} killed: successor joined", replaced, wanted),
        _row(f"{leaving} vanished: place free", together.vanished, promised),
    ]  # fmt: skip


def _row(
    case: str, seconds: list[float], limit: tuple[float, str], updates: Sequence[float] = ()
) -> Row:
    more = {"measured": float(len(seconds))}
    if updates:
        more |= {"first_update_s": median(updates), "last_first_update_s": max(updates)}
    return Row(
        case=case, unit="s", ours=median(seconds), spread=(min(seconds), max(seconds)),
        limit=limit[0], limit_name=limit[1], more=more,
    )  # fmt: skip


def _parser() -> argparse.ArgumentParser:
    flags = argparse.ArgumentParser(description=__doc__)
    flags.add_argument("--short", action="store_true", help="few clients, heartbeats of a second")
    flags.add_argument("--out", type=Path, default=RESULTS, help="where to write the results")
    flags.add_argument("--repetitions", type=int, help="how often, in both ways (3)")
    return flags


if __name__ == "__main__":
    sys.exit(main())
