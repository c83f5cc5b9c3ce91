"""What keeps a coordinator with another checkpoint from making a version a second time.

The active coordinator leaves in the queue ``coordinator.newest`` which version it publishes, just
before the message without which no client has that model. A new active coordinator reads it first:
a folder that was copied, a backup, or a checkpoint whose newest file is damaged holds an older
version than is out, and what follows from it would be other models under numbers that are taken.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from coordinator_worker.state.training_state import State
from warren_shared.amqp.queue_browser import peek
from warren_shared.errors import BrokerRefused, ConfigError, Rejected
from warren_shared.naming import NEWEST_QUEUE
from warren_shared.observability.log import Log
from warren_shared.protocol.codec import decode
from warren_shared.protocol.messages import Newest
from warren_shared.protocol.transfer import digest
from warren_shared.tls import Broker

log = Log(__name__)

READER: Final = "the coordinator"


def newest(broker: Broker, name: str) -> tuple[Newest, ...]:
    """What was published last, as far as the broker has been told, the oldest first.

    ``name`` is the connection's. Raises BrokerUnavailable without an answer, or if another
    coordinator is looking.
    """
    try:
        letters = list(peek(broker, name, NEWEST_QUEUE))
    except BrokerRefused as refused:
        log.warning(
            "unfenced",
            "a second checkpoint folder would not be noticed (%s): run `broker-config apply` once",
            refused,
        )
        return ()
    found = []
    for letter in letters:
        try:
            message, _ = decode(memoryview(letter.body), READER)
        except Rejected as rejected:
            log.warning("unfenced", "%s holds what cannot be read: %s", NEWEST_QUEUE, rejected)
            continue
        if isinstance(message, Newest):
            found.append(message)
    return tuple(found)


def check(
    state: State | None, told: Sequence[Newest], folder: Path, damaged: str, *, is_published: bool
) -> None:
    """Raise ConfigError if going on from ``state`` would make a version that is out already.

    ``told`` is what was published last, in that order. ``damaged`` says what is wrong with the
    newer file in ``folder``, if something is.
    ``is_published``: the checkpoint holds what was published, as all but a region's do.
    """
    if state is None:
        if told:
            log.warning(
                "new_run",
                "version %d of run %s is out, and %s holds no checkpoint: a new run begins; if that"
                " one shall go on, stop this and name its folder (--checkpoint-dir)",
                told[-1].version,
                told[-1].run,
                folder,
            )
        return
    run = (state.federation, state.run)
    ours = [one for one in told if (one.federation, one.run) == run]
    out = max(reversed(ours), key=lambda one: one.version, default=None)  # the last said of those
    if out is None:
        if damaged:
            raise ConfigError(f"{damaged}: restore it, or {_go_on(state.version + 1)}")
        return
    if state.version < out.version:
        has = f"version {state.version}{f' ({damaged})' if damaged else ''}"
        raise ConfigError(
            f"version {out.version} of run {state.run} is out, and {folder} holds {has}: use the"
            f" folder that has it, or {_go_on(out.version)}"
        )
    is_other = digest(state.weights.buffer) != out.digest
    if is_published and state.version == out.version and is_other:
        raise ConfigError(
            f"{folder} holds another version {state.version} of run {state.run} than the one that"
            " is out, made by a coordinator with a copy of this folder: use the folder of that one"
        )


def _go_on(version: int) -> str:
    return (
        f"go on from here without it: `coordinator-worker rollback current --after {version}`"
        " (the updates in it are lost)"
    )
