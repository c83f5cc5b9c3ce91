"""Where the next model of a run comes from: the coordinator's clients, or a federation above.

The worker folds a round's updates and computes a model of them in either case. Then it asks its
source which model is to be published: with `LocalAggregation` the one that it computed; a region's
source (`coordinator_worker/runtime/upstream.py`) sends that to the federation above, and gives the
next model from there.
"""

from typing import Protocol

from coordinator_worker.rounds.round import Round
from coordinator_worker.runtime.model_publisher import ModelPublisher
from coordinator_worker.state.round_record import RoundRecord
from warren_shared.protocol.messages import ModelManifest
from warren_shared.tensors.layout import Weights


class ModelSource(Protocol):
    """What differs between a coordinator and a region's; `provide` runs on the sending thread.

    ``alone``: no other process changes the model that the coordinator computed.
    """

    alone: bool

    def begin(self, weights: Weights) -> None:
        """A run goes on from ``weights``, which are not published yet."""
        ...

    def complete(self, record: RoundRecord, closed: Round, version: int) -> RoundRecord:
        """The record of a round, ``closed`` at ``version``, with what the source needs of it."""
        ...

    def provide(self, publisher: ModelPublisher, weights: Weights) -> None:
        """Make ``weights`` the model that is to be published, and the header the one it has.

        Raises:
            Stopped: there is none, because the coordinator ends.
        """
        ...

    def end_reason(self, manifest: ModelManifest) -> str:
        """Why no model follows the published one; empty if the stopping criteria decide that."""
        ...

    def look_at_standby(self, *, active: bool) -> None:
        """Some time has passed since the coordinator asked whether it is ``active``.

        Raises:
            BrokerRefused: it is not, and must end.
        """
        ...

    def stop(self) -> None:
        """The coordinator was asked to stop; for any thread."""
        ...

    def abandon(self, publisher: ModelPublisher | None) -> None:
        """The coordinator ends: `provide` must return or raise, whatever it waits for."""
        ...

    def close(self) -> None:
        """The coordinator's connections are closed: end all threads."""
        ...

    def raise_failure(self) -> None:
        """Raise what ended the source, if that was an error."""
        ...


class LocalAggregation:
    """The next model is what the coordinator computed of its clients' updates."""

    alone = True

    def begin(self, weights: Weights) -> None:
        """Nothing else has to begin."""

    def complete(
        self,
        record: RoundRecord,
        closed: Round,  # noqa: ARG002
        version: int,  # noqa: ARG002
    ) -> RoundRecord:
        """The record as it is."""
        return record

    def provide(self, publisher: ModelPublisher, weights: Weights) -> None:
        """The weights as they are, at once: all but the last chunk may go out now."""

    def end_reason(self, manifest: ModelManifest) -> str:  # noqa: ARG002
        """The stopping criteria decide."""
        return ""

    def look_at_standby(self, *, active: bool) -> None:
        """A standby waits as long as it takes."""

    def stop(self) -> None:
        """The loop ends all waiting."""

    def abandon(self, publisher: ModelPublisher | None) -> None:
        """Nothing waits; the last chunk must not go out before the checkpoint is written."""

    def close(self) -> None:
        """There is nothing to close."""

    def raise_failure(self) -> None:
        """Nothing else has run."""
