"""Every message of the protocol, as strict pydantic headers: a sender's claims, typed and bounded.

A *transfer* (a model, an update, initial weights) is its manifest followed by chunks; the manifest
message carries the first chunk, so that what fits one chunk is one message. `join`, `failed`
and `notice` carry no data.

What is added later must not break those who are older. A new field has a default that means "as
before", and is marked with the protocol it came with: ``Annotated[…, Since(3)]``. A header travels
without what is at its default, under the lowest protocol that knows all the rest. So a feature that
is not used means nothing to an older reader, and one that is used is refused as of a newer protocol
instead of being misread. A default, once published, never changes: it is what absence means.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, ClassVar, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, FailFast, Field, TypeAdapter, model_validator

from warren_shared.naming import USER_PATTERN
from warren_shared.tensors.compression import RAW
from warren_shared.tensors.evaluation import MAX_CLASSES, MAX_SCORES, SCORE_BINS
from warren_shared.tensors.layout import MAX_NAME, Role

PROTOCOL: Final = 5  # the newest that is known here: raised with each field or kind that is added
OLDEST: Final = 1  # of those that are still read
MAX_SIZE_BYTES: Final = 1 << 40
MAX_EXAMPLES: Final = 1 << 40
MAX_TENSORS: Final = 10_000
MAX_REASON: Final = 256  # characters
# Ten thousand clients of MAX_EXAMPLES each still have a finite sum.
MAX_FIGURE: Final = 1e100
MAX_HERE: Final = 10_000

# Printable: no control character, nothing that turns the order of letters round, no line's end.
_PRINTABLE: Final = r"^[^\p{C}\p{Zl}\p{Zp}]+$"
Name = Annotated[str, Field(min_length=1, max_length=MAX_NAME)]  # of the coordinator's choice
ClientsName = Annotated[Name, Field(pattern=_PRINTABLE)]
ClientId = Annotated[str, Field(pattern=rf"^{USER_PATTERN}(\.[0-9]{{1,6}})?$")]
Code = Annotated[str, Field(pattern=r"^[0-9a-z.+-]{0,32}$")]  # of a task: client_worker.tasks.code
Encoding = Annotated[str, Field(pattern=r"^[0-9a-z.]{1,16}$")]
Hex = Annotated[str, Field(pattern=r"^[0-9a-f]{8,64}$")]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Signature = Annotated[str, Field(pattern=r"^[0-9a-f]{128}$")]
Xxh3 = Annotated[int, Field(ge=0, lt=1 << 64)]
Version = Annotated[int, Field(ge=0, le=1 << 53)]
Figure = Annotated[float, Field(allow_inf_nan=False)]  # one NaN would be everybody's mean
Setting = bool | int | Figure | Annotated[str, Field(max_length=1024)]
Metric = Annotated[float, Field(ge=-MAX_FIGURE, le=MAX_FIGURE, allow_inf_nan=False)]
Figures = Annotated[dict[ClientsName, Metric], Field(max_length=64)]
Count = Annotated[int, Field(ge=0, le=MAX_EXAMPLES)]
Row = Annotated[list[Count], Field(max_length=SCORE_BINS), FailFast()]
NotFinite = Annotated[list[ClientsName], Field(max_length=64)]
Config = Annotated[dict[Name, Setting], Field(max_length=64)]
# Digests of what is not exchanged and has to be equal at every site, such as a vocabulary.
FixedState = Annotated[dict[ClientsName, Hex], Field(max_length=64)]


@dataclass(frozen=True)
class Since:
    """Mark of a field that came with ``protocol``; what has none was there from the first."""

    protocol: int


class Strict(BaseModel):
    """Exact types, no unknown fields, immutable."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    def needs(self) -> int:
        """The lowest protocol whose readers know all that this says."""
        found = OLDEST
        for name, field in type(self).model_fields.items():
            value = getattr(self, name)
            if value == field.default:
                continue
            marks = [mark.protocol for mark in field.metadata if isinstance(mark, Since)]
            parts = value if isinstance(value, list) else [value]
            inside = (part.needs() for part in parts if isinstance(part, Strict))
            found = max([found, *marks, *inside])
        return found


class Message(Strict):
    """Any header; ``SINCE`` is the protocol that its kind came with."""

    SINCE: ClassVar[int] = OLDEST

    def header(self) -> dict[str, object]:
        """As it travels: protocol, kind, and what is not at its default."""
        said = self.model_dump(exclude_defaults=True, exclude={"kind"})
        kind = type(self).model_fields["kind"].default
        return {"protocol": max(self.SINCE, self.needs()), "kind": kind, **said}


class Transfer(Message):
    """A manifest: announces ``size_bytes`` bytes whose XXH3 is ``digest``, under an id."""

    transfer: Hex
    size_bytes: Annotated[int, Field(gt=0, le=MAX_SIZE_BYTES)]
    digest: Xxh3


class Signed(Message):
    """What the coordinator says.

    ``signatures`` by key (`warren_shared.protocol.signing`), over all the rest.
    """

    SIGNED_SINCE: ClassVar[int] = 2

    signatures: Annotated[dict[Hex, Signature], Field(max_length=4), Since(2)] = {}


class TensorEntry(Strict):
    """One row of the tensor table; ``role`` as in `warren_shared.tensors.layout`."""

    name: ClientsName
    shape: Annotated[list[Annotated[int, Field(ge=0, le=1 << 40)]], Field(max_length=32)]
    dtype: Literal["float32", "float64"]
    role: Annotated[Role, Since(3)] = "trainable"


# Of a table that is wrong throughout, a complaint about each row would be many times its size.
Tensors = Annotated[list[TensorEntry], Field(min_length=1, max_length=MAX_TENSORS), FailFast()]


class LocalTraining(Strict):
    """How clients are asked to train.

    ``learning_rate_factor`` multiplies each client's own learning rate; ``proximal`` is FedProx's
    mu; ``clip_norm`` bounds the L2 norm of each step's gradient; ``epochs`` or ``steps`` replace
    the task's own; with ``scaffold`` control variates ride behind the weights. ``exchange`` says
    which tensors travel: all, or those that train (`warren_shared.tensors.frozen`).
    """

    learning_rate_factor: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    proximal: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    clip_norm: Annotated[float, Field(gt=0)] | None = None
    epochs: Annotated[int, Field(gt=0)] | None = None
    steps: Annotated[int, Field(gt=0)] | None = None
    scaffold: bool = False
    exchange: Annotated[Literal["all", "trainable"], Since(5)] = "all"


class PrivacyTerms(Strict):
    """What a run promises its clients, and what they do for it themselves.

    The model is (``epsilon``, ``delta``)-differentially private in each client, over all of its
    ``rounds``: an update has an L2 norm of at most ``clip``, and a client is in at most
    ``contributions`` rounds that are at least ``distance`` apart.
    """

    epsilon: Annotated[float, Field(gt=0, le=100)]
    delta: Annotated[float, Field(gt=0, lt=1)]
    clip: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    contributions: Annotated[int, Field(ge=1)]
    distance: Annotated[int, Field(ge=1)]
    rounds: Annotated[int, Field(ge=1)]


class MaskTerms(Strict):
    """How updates are masked, so that only sums of them can be read (docs/secure-aggregation.md).

    ``keeper`` is the id of the key that seeds are sealed to; no sum is of fewer than ``least``
    broker users. An update of L2 norm at most ``clip`` becomes integers by ``scale``, of which sums
    are modulo 2^``ring``. It weighs as its number of examples, ``examples`` at most, over
    ``examples``; 1 makes all alike. ``weights`` is what it is multiplied by, by how many versions
    late it is. Figures are added up in limbs of ``limb`` bits.
    """

    keeper: Hex
    least: Annotated[int, Field(ge=2)]
    ring: Literal[16, 32]
    scale: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    clip: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    weights: Annotated[
        list[Annotated[int, Field(ge=1, le=16)]], Field(min_length=1, max_length=MAX_TENSORS)
    ]
    examples: Annotated[int, Field(ge=1, le=1 << 20)]
    limb: Annotated[int, Field(ge=1, le=31)]


class FigureNames(Strict):
    """Which figures ride behind a masked update: `warren_shared.tensors.masked_figures`.

    ``metrics`` of its training, and of its held-out data ``means``, a confusion matrix of
    ``classes`` (0: none) and histograms of ``scores``.
    """

    metrics: NotFinite = []
    means: NotFinite = []
    classes: Annotated[int, Field(ge=0, le=MAX_CLASSES)] = 0
    scores: bool = False


class ModelManifest(Transfer, Signed):
    """The global model, version ``version`` of training run ``run``.

    ``content`` is the BLAKE3 digest of its weights, where it is signed;
    ``config`` reaches every client's task, ``local`` says how it is to be trained;
    ``max_staleness`` is how many versions late an update may be; ``participation`` is the share of
    the clients that are drawn to train from this version (`warren_shared.protocol.sampling`);
    ``final`` says that no further version will come in this run; ``fixed_state`` is that of the
    client that sent the initial weights, which every client's has to equal; ``uplink`` is the
    encoding in which updates are wanted (`warren_shared.tensors.compression`); ``downlink`` is the
    one in which later versions come, so that this one has to be kept: with a ``base`` the transfer
    is not the model but the change to it from that version, and ``weights_digest`` the XXH3 of the
    model that it leads to (`warren_shared.tensors.model_change`). With ``privacy`` updates say
    nothing but their weights; with ``secure`` they are masked.
    """

    kind: Literal["model"] = "model"
    federation: Name
    run: Hex
    version: Version
    tensors: Tensors
    config: Config = {}
    local: LocalTraining = LocalTraining()
    max_staleness: Annotated[int, Field(ge=0)] = 0
    participation: Annotated[float, Field(gt=0, le=1)] = 1.0
    content: Annotated[Digest | None, Since(2)] = None
    final: bool = False
    fixed_state: Annotated[FixedState, Since(3)] = {}
    uplink: Annotated[Encoding, Since(4)] = RAW
    downlink: Annotated[Encoding, Since(5)] = RAW
    privacy: Annotated[PrivacyTerms | None, Since(5)] = None
    secure: Annotated[MaskTerms | None, Since(5)] = None
    base: Annotated[Version | None, Since(5)] = None
    weights_digest: Annotated[Xxh3 | None, Since(5)] = None

    @model_validator(mode="after")
    def _is_whole_or_a_change(self) -> Self:
        """Or it could not be told what the bytes are."""
        if self.base is None:
            return self
        if self.downlink == RAW or self.weights_digest is None or self.base >= self.version:
            raise ValueError("a change has an encoding, an older base and the model's digest")
        return self


class ScoreTable(Strict):
    """Distinct scores in ascending order, and how many negatives and positives have each."""

    scores: Annotated[list[Metric], Field(max_length=MAX_SCORES), FailFast()]
    negatives: Annotated[list[Count], Field(max_length=MAX_SCORES), FailFast()]
    positives: Annotated[list[Count], Field(max_length=MAX_SCORES), FailFast()]

    @model_validator(mode="after")
    def _is_a_table(self) -> Self:
        """Or it could not be added up."""
        if not len(self.scores) == len(self.negatives) == len(self.positives):
            raise ValueError("a table of scores has as many of each")
        if any(a >= b for a, b in pairwise(self.scores)):
            raise ValueError("scores ascend")
        return self


class EvaluationEntry(Strict):
    """What ``base_version`` is worth on the client's held-out data.

    `warren_shared.tensors.evaluation` makes it. ``scores`` is how protocols 1 and 2 said what
    ``score_table`` says. ``not_finite`` names the figures that came out as NaN or
    infinite, which a Figure cannot be.
    """

    num_examples: Annotated[int, Field(gt=0, le=MAX_EXAMPLES)]
    means: Figures = {}
    confusion: Annotated[list[Row], Field(max_length=MAX_CLASSES), FailFast()] = []
    scores: Annotated[list[Row], Field(max_length=2), FailFast()] = []
    score_table: Annotated[ScoreTable | None, Since(3)] = None
    not_finite: Annotated[NotFinite, Since(3)] = []

    @model_validator(mode="after")
    def _are_tables(self) -> Self:
        """Or they could not be added up: a square table, and two histograms of all bins."""
        if any(len(row) != len(self.confusion) for row in self.confusion):
            raise ValueError("a confusion matrix is square")
        if self.scores and [len(row) for row in self.scores] != [SCORE_BINS] * 2:
            raise ValueError(f"scores are two histograms of {SCORE_BINS} bins")
        for table in (self.confusion, self.scores):  # or one example would weigh as many
            if sum(map(sum, table)) > self.num_examples:
                raise ValueError("more counts than examples")
        if self.score_table is not None:
            counted = sum(self.score_table.negatives) + sum(self.score_table.positives)
            if counted > self.num_examples:
                raise ValueError("more scores than examples")
        return self


class UpdateManifest(Transfer):
    """A weight delta of ``client``, trained from ``base_version`` on ``num_examples`` examples.

    ``not_finite`` names the metrics that came out as NaN or infinite; ``encoding`` is what its
    bytes are in; ``code`` is the version of the task's code that made it. One that is masked tells
    in ``figures`` what rides in its bytes behind the weights, and nothing of it here.
    """

    kind: Literal["update"] = "update"
    federation: Name
    run: Hex
    client: ClientId
    base_version: Version
    num_examples: Annotated[int, Field(gt=0, le=MAX_EXAMPLES)]
    layout: Hex
    metrics: Figures = {}
    evaluation: EvaluationEntry | None = None
    local_steps: Annotated[int, Field(gt=0, le=MAX_EXAMPLES)] | None = None
    not_finite: Annotated[NotFinite, Since(3)] = []
    encoding: Annotated[Encoding, Since(4)] = RAW
    figures: Annotated[FigureNames | None, Since(5)] = None
    code: Annotated[Code, Since(5)] = ""


class InitialManifest(Transfer):
    """Initial weights, sent by a client that the coordinator asked for them."""

    kind: Literal["initial"] = "initial"
    federation: Name
    client: ClientId
    tensors: Tensors
    fixed_state: Annotated[FixedState, Since(3)] = {}


class Chunk(Message):
    """Bytes ``index * CHUNK_BYTES`` onwards of a transfer; index 0 rides on the manifest."""

    kind: Literal["chunk"] = "chunk"
    transfer: Hex
    index: Annotated[int, Field(gt=0)]


class Sealed(Message):
    """Any of a client's messages, readable for the coordinator alone.

    See `warren_shared.protocol.encryption`.

    ``key`` is the one it is encrypted to; the encrypted body is its data.
    """

    SINCE: ClassVar[int] = 2

    kind: Literal["sealed"] = "sealed"
    key: Hex


class Join(Message):
    """A client is there and wants the newest model in its mailbox."""

    kind: Literal["join"] = "join"
    federation: Name
    client: ClientId
    fixed_state: Annotated[FixedState, Since(3)] = {}


class Evaluated(Message):
    """What a run's final model, ``version``, is worth on a client's held-out data.

    Of the versions before it the updates say so; no client trains from the last one.
    """

    SINCE: ClassVar[int] = 3

    kind: Literal["evaluated"] = "evaluated"
    federation: Name
    run: Hex
    client: ClientId
    version: Version
    evaluation: EvaluationEntry


class Failed(Message):
    """A client's own code, or what it was given, keeps it from its work.

    ``reason`` is one printable line: an exception's type, message and place, never data beyond
    that. ``ends`` says that the client will not try again, ``version`` what it was to train from.
    """

    SINCE: ClassVar[int] = 3

    kind: Literal["failed"] = "failed"
    federation: Name
    client: ClientId
    reason: Annotated[str, Field(min_length=1, max_length=MAX_REASON)]
    version: Version | None = None
    ends: bool = False

    @model_validator(mode="after")
    def _is_printable(self) -> Self:
        """Or it would write on the operator's terminal what the sender likes."""
        if not self.reason.isprintable():
            raise ValueError("a reason is one printable line")
        return self


class Seed(Message):
    """To the keeper: what the update ``transfer`` of ``client`` is masked with.

    It is sent before the update, and sealed to the keeper. All that the keeper must know to refuse
    is in it: of which ``run`` and ``base_version``; how long the update is, ``elements`` of weights
    in ``layout`` and ``figure_elements`` of the figures whose names have the digest ``figures``;
    the BLAKE3 of the ``model`` it was trained from, and of the ``terms`` that its sender was told.
    """

    SINCE: ClassVar[int] = 5

    kind: Literal["seed"] = "seed"
    federation: Name
    run: Hex
    client: ClientId
    base_version: Version
    transfer: Hex
    layout: Hex
    elements: Annotated[int, Field(gt=0, le=MAX_SIZE_BYTES)]
    figures: Digest
    figure_elements: Annotated[int, Field(ge=0, le=1 << 20)]
    model: Digest
    terms: Digest
    seed: Digest


class MaskedUpdate(Strict):
    """One update of a set whose masks are asked for; ``weight`` is what it counts in the sum."""

    client: ClientId
    base_version: Version
    transfer: Hex
    weight: Annotated[int, Field(ge=1, le=16)]


class Unmask(Signed):
    """From the coordinator to the keeper: the sum of the masks of ``updates``.

    It is wanted for version ``version`` of ``run``, whose updates are masked as ``secure`` and
    ``privacy`` say. Without ``updates`` it is a question: which were revealed for that version?
    """

    SINCE: ClassVar[int] = 5

    kind: Literal["unmask"] = "unmask"
    federation: Name
    run: Hex
    version: Version
    layout: Hex
    secure: MaskTerms
    privacy: PrivacyTerms | None = None
    updates: Annotated[list[MaskedUpdate], Field(max_length=MAX_HERE), FailFast()] = []


class Revealed(Signed):
    """From the keeper: what it has revealed for ``version`` of ``run``, ids of transfers.

    With a ``reason`` it refuses what was asked, in words (``detail``); ``transfers`` are then those
    that are at fault, or with the reason ``version`` those that were revealed. ``asked`` is the
    digest of the request (`warren_shared.protocol.masking.request_digest`): what another one was
    answered is no answer to this one. ``rounds``: how many sums it has given away in this run.
    """

    SINCE: ClassVar[int] = 5

    kind: Literal["revealed"] = "revealed"
    federation: Name
    run: Hex
    version: Version
    asked: Digest
    transfers: Annotated[list[Hex], Field(max_length=MAX_HERE), FailFast()] = []
    reason: Annotated[str, Field(max_length=MAX_REASON)] = ""
    detail: Annotated[str, Field(max_length=4 * MAX_REASON)] = ""
    rounds: Annotated[int, Field(ge=0)] = 0


class FigureSum(Strict):
    """A sum of figures of those names, by digest; of how many updates, and integers."""

    names: Digest
    updates: Annotated[int, Field(gt=0)]
    elements: Annotated[int, Field(gt=0, le=1 << 20)]


class Unmasked(Transfer, Signed):
    """From the keeper: the sum of the masks of a set, for ``version`` of ``run``.

    ``content`` is the BLAKE3 of its bytes: the sum for the weights, then one for each of
    ``figures``. ``asked`` is the digest of the request, as in `Revealed`. ``rounds``: how many sums
    it has given away in this run, with this one.
    """

    SINCE: ClassVar[int] = 5

    kind: Literal["unmasked"] = "unmasked"
    federation: Name
    run: Hex
    version: Version
    asked: Digest
    content: Digest
    figures: Annotated[list[FigureSum], Field(max_length=MAX_HERE)] = []
    rounds: Annotated[int, Field(ge=0)] = 0


class Probe(Message):
    """From a coordinator to itself: the one that receives what goes to `update` is the active one.

    The queue has a single active consumer, and the broker does not tell a consumer whether it is.
    """

    kind: Literal["probe"] = "probe"


class Newest(Message):
    """From a coordinator to the next one: which version is out, left where only they may write.

    A coordinator whose checkpoint is older, or holds another model of that version, would make two
    models of one version. ``digest`` is the XXH3 of the weights.
    """

    SINCE: ClassVar[int] = 3

    kind: Literal["newest"] = "newest"
    federation: Name
    run: Hex
    version: Version
    digest: Xxh3


class Notice(Signed):
    """What the coordinator asks or says besides models.

    ``join``: to everybody, from a coordinator that has no model and knows no client yet;
    ``send-initial``: to one that joined, with the config its task is to be made with;
    ``rejected``: to the sender of an update, with the reason;
    ``all-hands``: to everybody, clients not drawn for ``base_version`` shall train from it too;
    ``missing``: to one, or to all but those ``here``, from which nothing to ``base_version`` of
    ``run`` has come, though the queue has been read so far: the broker has lost the model or the
    update.
    """

    kind: Literal["notice"] = "notice"
    notice: Literal["join", "send-initial", "rejected", "all-hands", "missing"]
    reason: str = ""
    detail: str = ""
    base_version: Version | None = None
    config: Config = {}
    local: LocalTraining = LocalTraining()
    run: Annotated[Hex | None, Since(3)] = None
    here: Annotated[list[ClientId], Field(max_length=MAX_HERE), Since(3)] = []


AnyMessage = Annotated[
    ModelManifest
    | UpdateManifest
    | InitialManifest
    | Chunk
    | Sealed
    | Join
    | Evaluated
    | Failed
    | Seed
    | Unmask
    | Revealed
    | Unmasked
    | Probe
    | Newest
    | Notice,
    Field(discriminator="kind"),
]
ANY_MESSAGE: TypeAdapter[AnyMessage] = TypeAdapter(AnyMessage)
