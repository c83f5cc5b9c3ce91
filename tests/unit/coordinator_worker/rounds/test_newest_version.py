"""Whether a checkpoint may be gone on from, by what the broker knows to be out."""

from pathlib import Path

import numpy as np
import pytest

from coordinator_worker.rounds.newest_version import check
from coordinator_worker.state.training_state import State
from warren_shared.errors import ConfigError
from warren_shared.protocol.messages import Newest
from warren_shared.protocol.transfer import digest
from warren_shared.tensors.layout import Weights

STATE = State("f", "ab" * 4, 7, Weights.of([np.ones(3, np.float32)]), applied={})
OUT = Newest(federation="f", run=STATE.run, version=7, digest=digest(STATE.weights.buffer))
DAMAGED = "a.checkpoint is not a whole checkpoint"


def judge(*out: Newest, damaged: str = "", is_published: bool = True) -> None:
    check(STATE, out, Path("folder"), damaged, is_published=is_published)


def other(**change: object) -> Newest:
    return OUT.model_copy(update=change)


@pytest.mark.parametrize(
    "out",
    [
        (),
        (OUT,),
        (OUT.model_copy(update={"version": 6, "digest": 1}),),  # it ended before it was published
        (OUT.model_copy(update={"run": "cd" * 4, "version": 90}),),
        (OUT.model_copy(update={"federation": "g", "version": 90}),),
        (OUT.model_copy(update={"digest": 2}), OUT),  # the last word on a version counts
    ],
)
def test_a_checkpoint_that_is_not_behind_is_gone_on_from(out: tuple[Newest, ...]) -> None:
    judge(*out)


def test_a_checkpoint_that_is_behind_is_refused_with_both_ways_out() -> None:
    with pytest.raises(
        ConfigError, match=r"version 9 of run .* is out, and folder holds version 7"
    ):
        judge(other(version=9))
    with pytest.raises(ConfigError, match="rollback current --after 9"):
        judge(other(version=9), OUT)  # said late, by one that was replaced


def test_another_model_of_the_version_that_is_out_is_refused() -> None:
    with pytest.raises(ConfigError, match="holds another version 7"):
        judge(other(digest=1))
    judge(other(digest=1), is_published=False)  # a region's checkpoint is not what it published


def test_damage_is_refused_unless_the_broker_knows_that_nothing_is_lost() -> None:
    judge(OUT, damaged=DAMAGED)  # the version before is the one that is out
    with pytest.raises(ConfigError, match=r"a\.checkpoint .*--after 8"):
        judge(damaged=DAMAGED)
    with pytest.raises(ConfigError, match=r"version 8 .* \(a\.checkpoint"):
        judge(other(version=8), damaged=DAMAGED)


def test_before_there_is_a_model_there_is_nothing_to_compare() -> None:
    check(None, [OUT], Path("folder"), "", is_published=True)
