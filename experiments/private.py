"""Accuracy against epsilon: what ``--privacy`` costs, in rounds and asynchronously.

``python -m experiments.private --data FOLDER``: Fashion-MNIST at 3,000 clients of 20 images, whose
features (oriented gradients) each site computes by itself, and a softmax of 4,420 parameters. The
promise is to each client, for the whole run, with delta = 1e-5 and without any amplification by
sampling. In rounds all clients take turns; a round waits for its last. Asynchronously a fixed
number is under way, and a client trains again when it may, as ``client-worker`` does. Time is
virtual: a client has its own pace, lognormal, and each of its trips lasts that much times the
absolute value of a Gaussian.

A figure is the median over noise streams; staleness and rejections are the first stream's. Clip,
rate and momentum were chosen for each line on another stream and other test images; that choice is
not in epsilon.

The attack: 300 of the clients are replaced by ones whose updates all go in one random direction, as
long as the clip; 300 more directions are those of nobody. The attacker has all models, knows the
rounds and the mechanism, and says which directions were there; of the other clients it knows
nothing. 0.5 is guessing.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import sqrt
from pathlib import Path
from statistics import NormalDist, median
from typing import Final

import numpy as np

from experiments.command import run
from experiments.features import FEATURES
from experiments.pictures import Panel
from experiments.private_runs import (
    DELTA,
    EXPONENT,
    LAST,
    PARAMETERS,
    RATE,
    SPREAD,
    STALENESS,
    Course,
    Settings,
    Size,
    Softmax,
    Stage,
    Way,
    course,
    in_rounds,
)
from experiments.report import Findings, Table
from experiments.vectors import shaped
from warren_shared.observability.progress import through
from warren_shared.privacy.accountant import mu_of
from warren_shared.tensors.layout import Array
from warren_shared.tensors.update import Update

FULL: Final = Size(3_000, 20, 100, 4, 20, 150, 2_000, 8_000, (1, 2, 3), (2, 4, 8))
SHORT: Final = Size(320, 20, 20, 2, 4, 30, 100, 300, (1,), (8,))
GOALS: Final[Mapping[float, float]] = {2: 0.855, 4: 0.865, 8: 0.875}
CHOSEN_ON: Final = 0  # the stream
IN_ROUNDS: Final = [
    Settings(clip=clip, rate=rate)
    for clip in (0.125, 0.25, 0.5, 1.0)
    for rate in (0.3, 0.5, 0.7, 1.0, 1.5)
]
LATE: Final = [
    Settings(clip=clip, rate=rate, beta=beta, average=0.9)
    for clip in (0.25, 0.5, 1.0)
    for rate in (0.5, 0.7, 1.0)
    for beta in (0.5, 0.7, 0.9)
]
CANARIES: Final = 300

COLUMNS: Final = (
    "run", "accuracy", "streams", f"mean of the last {LAST}", "rounds", "time", "staleness",
    "contributions, most", "distance, least", "refused", "settings",
)  # fmt: skip
ATTACK_COLUMNS: Final = ("run", "AUC", "streams", "AUC of any attack, at most")
Courses = dict[Way, tuple[Way, list[Course]]]  # with default settings: with those that were chosen


def main(argv: Sequence[str] | None = None) -> int:
    """Run the experiment."""
    return run(argv, __doc__, experiment)


def experiment(data: Path, short: bool) -> Findings:
    """Every promise in rounds, asynchronously, and attacked."""
    size = SHORT if short else FULL
    chooses, stage = Stage.both(data, size)
    first = min(size.epsilons)
    private = [Way(epsilon) for epsilon in size.epsilons]
    late = [Way(first, is_late=True), Way(first, is_late=True, knows=False)]
    late.append(Way(None, is_late=True))
    ways = [Way(None), *private, Way(first, "gaussian"), *late]
    courses: Courses = {}
    for way in through(ways, "runs", len(ways)):
        tuned = replace(way, settings=IN_ROUNDS[0]) if short else chosen(chooses, way)
        courses[way] = tuned, [course(stage, tuned, stream) for stream in size.streams]
    attacks = {
        way: [attacked(stage, courses[way][0], stream) for stream in size.streams]
        for way in through([Way(None), *private], "attacks", 1 + len(private))
    }
    rows = [row(*courses[way]) for way in ways]
    attack_rows: list[list[str | float | None]] = [
        [str(way), median(found), _range(found), best_auc(way)] for way, found in attacks.items()
    ]
    return Findings(
        "private", "Accuracy against epsilon: differential privacy of each client",
        {
            "data": f"Fashion-MNIST, {size.clients} clients with {size.images} images each,"
            f" {size.test} test images and {size.held_out} to choose settings by",
            "model": f"softmax of {FEATURES} oriented gradients, {PARAMETERS} parameters",
            "local": f"full batch, rate {RATE:g}", "quorum": size.quorum, "rounds": size.rounds,
            "privacy": f"delta=1e-5,contributions={size.contributions},distance={size.turn}",
            "asynchronous": f"{size.in_flight} under way, distance={size.spaced}, max staleness"
            f" {STALENESS}, exponent {EXPONENT:g}",
            "paces": f"lognormal(σ={SPREAD:g})", "streams": list(size.streams),
        },
        [
            Table("Accuracy and participation, medians", COLUMNS, rows),
            Table("The attack", ATTACK_COLUMNS, attack_rows),
        ],
        pictures(courses, ways, late), reached(courses, attacks, size),
    )  # fmt: skip


def chosen(stage: Stage, way: Way) -> Way:
    """``way`` with the settings that are best on a stream, and on images, of their own."""
    tried = [replace(way, settings=settings) for settings in (LATE if way.is_late else IN_ROUNDS)]
    found = [course(stage, each, CHOSEN_ON).recent for each in tried]
    return tried[int(np.argmax(found))]


def row(way: Way, runs: Sequence[Course]) -> list[str | float | None]:
    """What the runs of one way came to."""
    late, refused = runs[0].staleness, runs[0].refused
    return [
        str(way), f"{accuracy(runs):.4f}", _range([course.final for course in runs], 4),
        f"{median(course.recent for course in runs):.4f}",
        median(len(course.times) for course in runs),
        median(course.times[-1] for course in runs),
        f"{np.mean(late):.2f}, at most {max(late)}" if late else None,
        max(course.most for course in runs), min(course.nearest for course in runs),
        ", ".join(f"{count} {reason}" for reason, count in sorted(refused.items())) or None,
        str(way.settings),
    ]  # fmt: skip


def pictures(courses: Courses, ways: Sequence[Way], late: Sequence[Way]) -> list[Panel]:
    """Accuracy by round and by time, of the first streams."""
    first = {way: runs[0] for way, (_, runs) in courses.items()}
    timed = [Way(None), replace(late[0], is_late=False), late[0], late[-1]]
    lowest = 0.7 if first[Way(None)].final > 0.8 else None
    return [
        Panel(
            "in rounds", "round", "test accuracy",
            {str(way): (list(range(1, len(first[way].times) + 1)), first[way].accuracies)
             for way in ways if not way.is_late},
            y_from=lowest,
        ),
        Panel(
            "against time", "virtual time", "test accuracy",
            {str(way): (first[way].times, first[way].averaged or first[way].accuracies)
             for way in timed},
            x_logarithmic=True, y_from=lowest,
        ),
    ]  # fmt: skip


def reached(courses: Courses, attacks: Mapping[Way, Sequence[float]], size: Size) -> dict[str, str]:
    """The goals, and what was found."""
    of = {way: runs for way, (_, runs) in courses.items()}
    first = min(size.epsilons)
    found = {"not private ≥ 0.880": f"{accuracy(of[Way(None)]):.3f}"}
    for epsilon in size.epsilons:
        goal = f" ≥ {GOALS[epsilon]:.3f}" if epsilon in GOALS else ""
        found[f"ε = {epsilon:g}{goal}"] = f"{accuracy(of[Way(epsilon)]):.3f}"
    both, late = of[Way(first)], of[Way(first, is_late=True)]
    ahead = accuracy(both) - accuracy(of[Way(first, "gaussian")])
    goal = "correlated noise ≥ 2 points ahead of independent noise"
    found[f"ε = {first:g}: {goal}"] = f"{100 * ahead:.1f} points"
    times = [median(course.times[-1] for course in runs) for runs in (both, late)]
    goal = "asynchronous ≥ 0.845, within 2.5 points of rounds, in ≤ 1/5 of the time"
    found[f"ε = {first:g}: {goal}"] = (
        f"{accuracy(late):.3f}, {100 * (accuracy(both) - accuracy(late)):.1f} points below,"
        f" 1/{times[0] / times[1]:.1f} of the time"
    )
    every = [*late, *of[Way(first, is_late=True, knows=False)]]
    goal = f"asynchronous: no client in more than {size.contributions} rounds, or nearer than"
    found[f"{goal} {size.spaced}"] = (
        f"{max(c.most for c in every)} at most, {min(c.nearest for c in every)} or more apart"
    )
    found[f"the attack at ε = {first:g}: AUC ≤ 0.70"] = (
        f"{median(attacks[Way(first)]):.2f}; not private {median(attacks[Way(None)]):.2f}"
    )
    return found


def accuracy(runs: Sequence[Course]) -> float:
    """Median of that of the final models."""
    return median(course.final for course in runs)


def attacked(stage: Stage, way: Way, stream: int) -> float:
    """AUC of the attack: how often a direction that was there looks more so than one that was not.

    The statistic is what tells best of a Gaussian mechanism: C times the sums that were released,
    along the direction, in the pattern in which the client moves them.
    """
    size, rng = stage.size, np.random.default_rng(stream + 1_000)
    count = min(CANARIES, size.clients // 4)
    drawn = rng.standard_normal((2, count, PARAMETERS)).astype(np.float32)
    drawn *= way.settings.clip / np.linalg.norm(drawn, axis=-1, keepdims=True)
    inside, outside = drawn
    chosen = [int(client) for client in rng.choice(size.clients, count, replace=False)]
    like = Softmax().get_weights()
    canaries = {
        client: Update(shaped(direction, like), 1)
        for client, direction in zip(chosen, inside, strict=True)
    }
    found = in_rounds(stage, way, stream, canaries)
    column = np.eye(1, size.rounds)[0]
    if way.epsilon is not None:
        bounds = size.rounds, size.quorum, PARAMETERS
        column = stage.promise(way).calibration(*bounds).correlation.column(size.rounds)
    behind = np.subtract.outer(np.arange(size.rounds), np.arange(size.rounds))
    matrix = np.where(behind >= 0, column[np.maximum(behind, 0)], 0.0)
    white = matrix @ sums_of(found, way.settings.beta)
    pattern = np.array([matrix[:, found.entered[client]].sum(axis=1) for client in chosen])
    # Nobody's directions are looked for in the rounds in which canaries were.
    there, nowhere = (
        np.einsum("ct,tc->c", pattern, white @ directions.T) for directions in (inside, outside)
    )
    return float((there[:, None] > nowhere).mean())


def best_auc(way: Way) -> float | None:
    """Of an attack that knows everything but the noise: that of N(mu, 1) against N(0, 1)."""
    if way.epsilon is None:
        return None
    return NormalDist().cdf(mu_of(way.epsilon, DELTA) / sqrt(2))


def sums_of(found: Course, beta: float) -> Array:
    """The noised sums of a run, up to a factor, from its models: momentum can be undone."""
    velocity = np.array(found.changes, np.float64)
    velocity[1:] -= beta * velocity[:-1].copy()
    return velocity


def _range(found: Sequence[float], digits: int = 3) -> str:
    return f"{min(found):.{digits}f} to {max(found):.{digits}f}"


if __name__ == "__main__":
    sys.exit(main())
