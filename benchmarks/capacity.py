"""What clients that do nothing cost a broker: memory for each mailbox, and for each connection.

``python -m benchmarks.capacity``: a private node is given mailboxes, ``--step`` at a time, then a
connection for each that waits in it, and its resident memory is looked at after each step. A step's
growth by its number is one sample. docs/scaling.md reckons with it.

Erlang counts more than is resident: for each connection a buffer as large as the system's for
sending (4 MB over loopback here), whose pages nobody has touched. RabbitMQ's own limit goes by what
is resident.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack, closing
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Final

from benchmarks.clients.raw_amqp import RawConnection
from benchmarks.harness.federation import Stand, stand
from benchmarks.harness.preparation import prepare
from benchmarks.harness.processes import cpu_s
from benchmarks.reporting.report import RESULTS, publish
from benchmarks.reporting.rows import Row
from broker_config.declaration.federation import Federation, Fleet
from broker_config.node import lifecycle
from warren_shared.naming import fleet_member, mailbox

FLEET: Final = "idle"
SETTLE_S: Final = 8.0  # the node counts and collects at intervals of five


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, and write the report."""
    given = _parser().parse_args(argv)
    prepare()
    steps, step, settle_s = (2, 20, 1.0) if given.short else (given.steps, given.step, SETTLE_S)
    publish("capacity", "What a client that does nothing costs the broker",
            measure(steps, step, settle_s), folder=given.out)  # fmt: skip
    return 0


def measure(steps: int, step: int, settle_s: float) -> list[Row]:
    """A row for mailboxes and one for connections, of ``steps`` samples of ``step`` each."""
    with stand(_federation(1)) as on, ExitStack() as stack:
        held = [_memory(on, settle_s)]
        for number in range(1, steps + 1):
            lifecycle.bring_to_state(on.broker, _federation(number * step + 1))
            held.append(_memory(on, settle_s))
        mailboxes, held = held, held[-1:]
        url = on.broker.broker_url(FLEET)
        for number in range(steps * step):
            connection = stack.enter_context(closing(RawConnection(url, read_bytes=1)))
            connection.consume(mailbox(fleet_member(FLEET, number)), ack=False, exclusive=True)
            if (number + 1) % step == 0:
                held.append(_memory(on, settle_s))
        before, began = cpu_s(on.broker.pid), time.monotonic()
        time.sleep(settle_s)
        busy = (cpu_s(on.broker.pid) - before) / (time.monotonic() - began)
        more = {"connections": steps * step, "broker_percent_of_a_core": 100 * busy}
        return [
            _row("a mailbox that nobody reads", mailboxes, step, {"mailboxes": steps * step}),
            _row("a connection that waits in its mailbox", held, step, more),
        ]


def _federation(size: int) -> Federation:
    return Federation(clients=(), fleets=(Fleet(FLEET, size),), model_bytes=1 << 20)


def _memory(on: Stand, settle_s: float) -> dict[str, int]:
    """Bytes that are resident (``rss``) and that Erlang counts, once it has had time to collect."""
    time.sleep(settle_s)
    with on.broker.manage() as management:
        found: dict[str, int] = management.get("nodes", on.broker.name, "memory")["memory"]["total"]
        return found


def _row(case: str, held: Sequence[dict[str, int]], step: int, more: dict[str, float]) -> Row:
    """Growth in kB for each of ``step``."""
    grown = {
        kind: [(after[kind] - before[kind]) / step / 1000 for before, after in pairwise(held)]
        for kind in ("rss", "erlang")
    }
    resident = [max(0.0, each) for each in grown["rss"]]  # what had been freed may be enough
    more |= {"erlang_counts_kb": median(grown["erlang"])}
    return Row(case, "kB", median(resident), spread=(min(resident), max(resident)), more=more)


def _parser() -> argparse.ArgumentParser:
    flags = argparse.ArgumentParser(description=__doc__)
    flags.add_argument("--short", action="store_true", help="few, for a few seconds")
    flags.add_argument("--out", type=Path, default=RESULTS, help="where to write the results")
    flags.add_argument("--steps", type=int, default=5, help="samples of each (5)")
    flags.add_argument(
        "--step", type=int, default=100, help="mailboxes or connections a step (100)"
    )
    return flags


if __name__ == "__main__":
    sys.exit(main())
