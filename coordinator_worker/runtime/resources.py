"""What a coordinator works with, made as its settings say.

All that reads files, takes ports or prepares connections when a coordinator starts is in the
factories here; constructors in this folder only keep what they are given.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from coordinator_worker.aggregation.algorithm import Algorithm
from coordinator_worker.monitoring import events, listeners
from coordinator_worker.monitoring.client_figures import ClientHistory
from coordinator_worker.monitoring.event_publisher import Events
from coordinator_worker.monitoring.reporter import RunReporter
from coordinator_worker.rounds.intake import Intake
from coordinator_worker.rounds.policy import Policy
from coordinator_worker.rounds.privacy_rules import PrivacyRules
from coordinator_worker.rounds.secure_rules import SecureRules
from coordinator_worker.rounds.staging import Staging
from coordinator_worker.rounds.stopping import StoppingCriteria
from coordinator_worker.runtime.dead_letters import Rejections
from coordinator_worker.runtime.disk_retry import DiskRetry
from coordinator_worker.runtime.evaluator import Evaluator
from coordinator_worker.runtime.event_loop import CoordinatorLoop
from coordinator_worker.runtime.inbox import InitialWeightsTimeout, Judged
from coordinator_worker.runtime.initial_weights import InitialWeightsRequest
from coordinator_worker.runtime.keeper_link import KeeperLink
from coordinator_worker.runtime.notices import Notices
from coordinator_worker.settings import CoordinatorSettings, parse_config
from coordinator_worker.storage.store import Store
from warren_shared.observability.event_bus import EventBus
from warren_shared.protocol.messages import Setting
from warren_shared.protocol.signing import Signer


@dataclass(frozen=True)
class RunRules:
    """What a run's settings come to; ``config`` is what tasks are told."""

    config: dict[str, Setting]
    stopping: StoppingCriteria
    learning: Algorithm
    policy: Policy
    privacy: PrivacyRules | None
    secure: SecureRules | None

    @classmethod
    def from_settings(cls, settings: CoordinatorSettings) -> Self:
        """As ``settings`` say; raises ConfigError if they contradict each other."""
        config = parse_config(settings.config)
        stopping = StoppingCriteria.from_settings(settings)
        learning = Algorithm.from_settings(settings)
        privacy = PrivacyRules.from_settings(settings)
        secure = SecureRules.from_settings(settings, privacy)
        policy = Policy.from_settings(settings, learning.aggregator, privacy, secure)
        return cls(config, stopping, learning, policy, privacy, secure)


@dataclass(frozen=True)
class Resources:
    """A coordinator's connections, its folder, and who reads and writes there."""

    loop: CoordinatorLoop
    store: Store
    staging: Staging
    initial_weights: InitialWeightsRequest
    intake: Intake
    event_bus: EventBus[events.Event]
    signer: Signer | None
    notices: Notices
    reporter: RunReporter
    rejections: Rejections
    disk_retry: DiskRetry
    evaluator: Evaluator | None
    keeper: KeeperLink | None

    @classmethod
    def open(cls, settings: CoordinatorSettings, rules: RunRules) -> Self:
        """Read the checkpoint and the keys, take the ports; the loop connects when it starts.

        Raises:
            ConfigError: a setting, or what it names, cannot be used.
        """
        loop = CoordinatorLoop.from_settings(settings)
        store = Store(settings, loop.stopped_within)
        staging = Staging(store.folder, memory_bytes=0)
        signer = Signer.of(settings.secret(settings.signing_keys))
        notices = Notices(loop.models, signer, spares=settings.spare_mailboxes)

        def ask_for_weights(client: str) -> None:
            local = rules.learning.local_at(0)
            notices.tell(client, notice="send-initial", config=rules.config, local=local)

        initial_weights = InitialWeightsRequest(
            ask_for_weights, lambda: loop.put(InitialWeightsTimeout())
        )
        intake = Intake.of(settings, rules.policy, staging, initial_weights.was_asked)
        event_bus = EventBus[events.Event]()
        event_bus.subscribe([ClientHistory(store.folder), *listeners.from_settings(settings)])
        publisher = Events(loop.models, event_bus, federation=settings.federation)
        reporter = RunReporter(publisher, settings.quorum)

        def judged(version: int, figures: Mapping[str, float]) -> None:  # on the evaluator's thread
            reporter.evaluated(version, figures)
            loop.put(Judged(version, figures))

        command = settings.evaluate
        return cls(
            loop=loop,
            store=store,
            staging=staging,
            initial_weights=initial_weights,
            intake=intake,
            event_bus=event_bus,
            signer=signer,
            notices=notices,
            reporter=reporter,
            rejections=Rejections(loop.models, notices, redacts=rules.policy.hides_figures),
            disk_retry=DiskRetry(reporter, loop),
            evaluator=Evaluator(command, store.folder, judged) if command else None,
            keeper=(
                KeeperLink.of(settings, loop.models, signer)
                if rules.secure is not None and signer is not None
                else None
            ),
        )
