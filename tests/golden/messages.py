"""One of each kind of message, bare and with all that it can say: what the golden bytes are of."""

import sys
from typing import Final

from tests.support.bodies import encode
from warren_shared.protocol import messages as m
from warren_shared.tensors.evaluation import SCORE_BINS

_ENTRY: Final = m.TensorEntry(name="kernel", shape=[2, 3], dtype="float32")
_TRANSFER: Final = {"transfer": "0123456789abcdef", "size_bytes": 24, "digest": 7}
_EVALUATION: Final = m.EvaluationEntry(
    num_examples=3,
    means={"loss": 0.25},
    confusion=[[1, 0], [1, 1]],
    scores=[[1] + [0] * (SCORE_BINS - 1)] * 2,
)

# By the protocol that they came with, so that golden bytes of an older one can be told to be whole.
PROTOCOL_1: Final[dict[str, m.Message]] = {
    "model": m.ModelManifest(
        federation="f", run="0badcafe", version=3, tensors=[_ENTRY], **_TRANSFER
    ),
    "model, all": m.ModelManifest(
        federation="f", run="0badcafe", version=3, tensors=[_ENTRY],
        config={"seed": 1, "mode": "fast", "x": 0.5, "on": True},
        local=m.LocalTraining(
            learning_rate_factor=0.5, proximal=0.1, clip_norm=1.0, epochs=2, steps=5, scaffold=True
        ),
        max_staleness=4, participation=0.25, final=True, **_TRANSFER,
    ),
    "update": m.UpdateManifest(
        federation="f", run="0badcafe", client="alfa", base_version=2, num_examples=5,
        layout="feedbeef", **_TRANSFER,
    ),
    "update, all": m.UpdateManifest(
        federation="f", run="0badcafe", client="phone.17", base_version=2, num_examples=5,
        layout="feedbeef", metrics={"loss": 0.5}, evaluation=_EVALUATION, local_steps=9,
        **_TRANSFER,
    ),
    "initial": m.InitialManifest(
        federation="f", client="alfa", tensors=[_ENTRY], **_TRANSFER
    ),
    "chunk": m.Chunk(transfer="0123456789abcdef", index=4),
    "join": m.Join(federation="f", client="alfa"),
    "probe": m.Probe(),
    "notice": m.Notice(notice="join"),
    "notice, all": m.Notice(
        notice="rejected", reason="stale", detail="too old", base_version=1, config={"seed": 1},
        local=m.LocalTraining(epochs=2),
    ),
}  # fmt: skip

PROTOCOL_2: Final[dict[str, m.Message]] = {
    "model, signed": m.ModelManifest(
        federation="f", run="0badcafe", version=3, tensors=[_ENTRY], content="ab" * 32,
        signatures={"cafecafe": "cd" * 64}, **_TRANSFER,
    ),
    "notice, signed": m.Notice(notice="join", signatures={"cafecafe": "cd" * 64}),
    "sealed": m.Sealed(key="cafecafe"),
}  # fmt: skip

_STATISTIC: Final = m.TensorEntry(
    name="moving_variance", shape=[3], dtype="float32", role="statistic"
)
_FIXED: Final = {"StringLookup vocabulary": "cafe" * 8}

PROTOCOL_3: Final[dict[str, m.Message]] = {
    "model, of statistics": m.ModelManifest(
        federation="f", run="0badcafe", version=3, tensors=[_ENTRY, _STATISTIC],
        fixed_state=_FIXED, **_TRANSFER,
    ),
    "initial, of statistics": m.InitialManifest(
        federation="f", client="alfa", tensors=[_ENTRY, _STATISTIC], fixed_state=_FIXED, **_TRANSFER
    ),
    "join, with fixed state": m.Join(federation="f", client="alfa", fixed_state=_FIXED),
    "failed": m.Failed(federation="f", client="alfa", reason="KeyError: 'age'"),
    "failed, all": m.Failed(
        federation="f", client="alfa", reason="KeyError: 'age'", version=3, ends=True
    ),
    "update, scores": m.UpdateManifest(
        federation="f", run="0badcafe", client="alfa", base_version=2, num_examples=5,
        layout="feedbeef", metrics={"loss": 0.5}, not_finite=["rank"],
        evaluation=m.EvaluationEntry(
            num_examples=3,
            score_table=m.ScoreTable(scores=[-0.5, 0.25], negatives=[1, 0], positives=[0, 2]),
            not_finite=["loss"],
        ),
        **_TRANSFER,
    ),
    "evaluated": m.Evaluated(
        federation="f", run="0badcafe", client="alfa", version=7,
        evaluation=m.EvaluationEntry(num_examples=3, means={"loss": 0.25}),
    ),
    "notice, missing": m.Notice(notice="missing", base_version=7, run="0badcafe", here=["alfa"]),
    "newest": m.Newest(federation="f", run="0badcafe", version=7, digest=(1 << 64) - 1),
}  # fmt: skip

PROTOCOL_4: Final[dict[str, m.Message]] = {
    "model, uplink": m.ModelManifest(
        federation="f", run="0badcafe", version=3, tensors=[_ENTRY], uplink="1bit", **_TRANSFER
    ),
    "update, encoded": m.UpdateManifest(
        federation="f", run="0badcafe", client="alfa", base_version=2, num_examples=5,
        layout="feedbeef", encoding="0.25bit", **_TRANSFER,
    ),
}  # fmt: skip

_PRIVACY: Final = m.PrivacyTerms(
    epsilon=2.0, delta=1e-5, clip=0.5, contributions=4, distance=30, rounds=120
)
_MASKS: Final = m.MaskTerms(
    keeper="cafecafe",
    least=3,
    ring=32,
    scale=1048576.0,
    clip=2.0,
    weights=[2, 1],
    examples=100,
    limb=24,
)
_TRAINABLE: Final = m.LocalTraining(exchange="trainable")

PROTOCOL_5: Final[dict[str, m.Message]] = {
    "model, downlink": m.ModelManifest(
        federation="f", run="0badcafe", version=3, tensors=[_ENTRY], downlink="1bit", **_TRANSFER
    ),
    "model, change": m.ModelManifest(
        federation="f", run="0badcafe", version=3, tensors=[_ENTRY], downlink="1bit", base=2,
        weights_digest=(1 << 64) - 1, **_TRANSFER,
    ),
    "model, private": m.ModelManifest(
        federation="f", run="0badcafe", version=3, tensors=[_ENTRY],
        privacy=_PRIVACY, **_TRANSFER,
    ),
    "model, of what trains": m.ModelManifest(
        federation="f", run="0badcafe", version=3, tensors=[_ENTRY], local=_TRAINABLE,
        fixed_state={"frozen weights": "cafe" * 8}, **_TRANSFER,
    ),
    "notice, of what trains": m.Notice(notice="send-initial", local=_TRAINABLE),
    "model, masked": m.ModelManifest(
        federation="f", run="0badcafe", version=3, tensors=[_ENTRY], secure=_MASKS, **_TRANSFER
    ),
    "update, masked": m.UpdateManifest(
        federation="f", run="0badcafe", client="alfa", base_version=2, num_examples=1,
        layout="feedbeef", encoding="ring32",
        figures=m.FigureNames(metrics=["loss"], means=["mae"], classes=2, scores=True),
        **_TRANSFER,
    ),
    "update, of a code": m.UpdateManifest(
        federation="f", run="0badcafe", client="alfa", base_version=2, num_examples=5,
        layout="feedbeef", code="0123456789ab", **_TRANSFER,
    ),
    "seed": m.Seed(
        federation="f", run="0badcafe", client="alfa", base_version=2, transfer="0123456789abcdef",
        layout="feedbeef", elements=8, figures="ef" * 32, figure_elements=5, model="ab" * 32,
        terms="cd" * 32, seed="01" * 32,
    ),
    "unmask": m.Unmask(
        federation="f", run="0badcafe", version=3, layout="feedbeef", secure=_MASKS,
        updates=[m.MaskedUpdate(
            client="alfa", base_version=2, transfer="0123456789abcdef", weight=2
        )],
    ),
    "unmask, all": m.Unmask(
        federation="f", run="0badcafe", version=3, layout="feedbeef", secure=_MASKS,
        privacy=_PRIVACY, signatures={"cafecafe": "cd" * 64},
    ),
    "revealed": m.Revealed(
        federation="f", run="0badcafe", version=3, asked="ac" * 32, rounds=2,
        transfers=["0123456789abcdef"],
    ),
    "revealed, refused": m.Revealed(
        federation="f", run="0badcafe", version=3, asked="ac" * 32, reason="few", detail="too few",
        signatures={"cafecafe": "cd" * 64},
    ),
    "unmasked": m.Unmasked(
        federation="f", run="0badcafe", version=3, asked="ac" * 32, content="ab" * 32, **_TRANSFER
    ),
    "unmasked, all": m.Unmasked(
        federation="f", run="0badcafe", version=3, asked="ac" * 32, content="ab" * 32, rounds=2,
        figures=[m.FigureSum(names="ef" * 32, updates=3, elements=5)],
        signatures={"cafecafe": "cd" * 64},
        **_TRANSFER,
    ),
}  # fmt: skip

PROTOCOLS: Final = {
    1: PROTOCOL_1,
    2: PROTOCOL_2,
    3: PROTOCOL_3,
    4: PROTOCOL_4,
    5: PROTOCOL_5,
}


def written(messages: dict[str, m.Message]) -> str:
    """``messages`` as they go out today, in the form of the files here."""
    return "".join(f"{name}: {encode(one).hex()}\n" for name, one in messages.items())


if __name__ == "__main__":
    sys.stdout.write(written(PROTOCOLS[m.PROTOCOL]))  # the golden bytes of a protocol that is new
