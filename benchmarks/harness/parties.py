"""Rounds among bare processes: everybody starts at a barrier, the last one to finish ends it."""

import multiprocessing
import time
from collections.abc import Callable, Sequence
from multiprocessing.synchronize import Barrier
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from multiprocessing.context import SpawnProcess

Round = Callable[[], None]
Party = tuple[Callable[..., Round], tuple[Any, ...]]  # called in its process: makes its round
Span = tuple[float, float]  # monotonic seconds, which all processes of a machine share

STOP_S: Final = 5.0


class PartyFailed(RuntimeError):
    """A process ended, or was too slow; the message says what it said."""


def round_seconds(parties: Sequence[Party], rounds: int, timeout_s: float) -> list[float]:
    """Seconds of each of ``rounds`` rounds, from the first to begin to the last to finish.

    Every party is made in a process of its own, then does its part of each round. ``timeout_s``
    bounds each round, and the making of the parties.

    Raises:
        PartyFailed: a party failed, or a round took longer than ``timeout_s``.
    """
    context = multiprocessing.get_context("spawn")  # nothing of ours is in their memory
    barrier = context.Barrier(len(parties))
    pipes = [context.Pipe(duplex=False) for _ in parties]
    started: list[SpawnProcess] = []
    try:
        for party, (_, end) in zip(parties, pipes, strict=True):
            arguments = (party, rounds, timeout_s, barrier, end)
            process = context.Process(target=_live, args=arguments, daemon=True)
            process.start()
            started.append(process)
            end.close()  # so that we hear of it when the process is gone
        until = time.monotonic() + timeout_s * (rounds + 1)
        spans = [_told(pipe, until) for pipe, _ in pipes]
    finally:
        for process in started:
            process.terminate()
        for process in started:
            process.join(STOP_S)
            process.kill()
    return [
        max(end for _, end in each) - min(begin for begin, _ in each)
        for each in zip(*spans, strict=True)
    ]


def _told(pipe: Any, until: float) -> list[Span]:
    if not pipe.poll(max(0.0, until - time.monotonic())):
        raise PartyFailed("a round took too long")
    try:
        found: list[Span] | str = pipe.recv()
    except EOFError:
        raise PartyFailed("a process ended without a word") from None
    if isinstance(found, str):
        raise PartyFailed(found)
    return found


def _live(party: Party, rounds: int, timeout_s: float, barrier: Barrier, pipe: Any) -> None:
    make, arguments = party
    spans: list[Span] = []
    try:
        one_round = make(*arguments)
        for _ in range(rounds):
            barrier.wait(timeout_s)
            begin = time.monotonic()
            one_round()
            spans.append((begin, time.monotonic()))
        pipe.send(spans)
        barrier.wait(timeout_s)  # nobody hangs up on somebody who is not done
    except Exception as error:
        barrier.abort()
        pipe.send(f"{type(error).__name__}: {error}")
        raise
