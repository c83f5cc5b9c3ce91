"""Epsilons of 200 random Gaussian mechanisms, as Google's dp-accounting finds them.

In an environment of its own, since it needs an older attrs than ours:

    pip install "dp-accounting==0.6.0" "attrs<24"
    python tests/golden/accountant.py > tests/golden/accountant.json

A line is [noise multiplier, compositions, delta, epsilon]. The epsilon is that of the privacy loss
distribution of one Gaussian, composed with itself; on standard error are what the accountant of
Renyi's divergence finds for the same, and figures for docs/privacy.md.
"""

import json
import random
import sys

from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent, SelfComposedDpEvent
from dp_accounting.pld import PLDAccountant
from dp_accounting.pld.privacy_loss_distribution import from_gaussian_mechanism
from dp_accounting.rdp import RdpAccountant

COUNT, STEP = 200, 1e-4  # STEP: of the privacy losses that are told apart
LARGEST = 6.0  # mu; beyond it an epsilon is above 40 and says nothing


def main() -> None:
    draw, lines, ratios = random.Random(20), [], []  # noqa: S311  # of test cases
    while len(lines) < COUNT:
        noise = round(0.3 * 100 ** draw.random(), 3)
        times = int(200 ** draw.random())
        delta = float(f"{10 ** draw.uniform(-10, -2):.3g}")
        if times**0.5 / noise > LARGEST:
            continue
        loss = from_gaussian_mechanism(noise, value_discretization_interval=STEP)
        epsilon = loss.self_compose(times).get_epsilon_for_delta(delta)
        lines.append(json.dumps([noise, times, delta, round(epsilon, 7)]))
        event = SelfComposedDpEvent(GaussianDpEvent(noise), times)
        renyi = RdpAccountant().compose(event).get_epsilon(delta)
        if epsilon > 0.1:
            ratios.append(renyi / epsilon)
    sys.stdout.write("[\n" + ",\n".join(lines) + "\n]\n")
    ratios.sort()
    said = [f"{ratios[int(share * (len(ratios) - 1))]:.3f}" for share in (0, 0.5, 1)]
    sys.stderr.write(f"Renyi over exact: least, median, most {', '.join(said)}\n")
    sampled = PoissonSampledDpEvent(120 / 3383, GaussianDpEvent(1.2))
    for kind in (RdpAccountant, PLDAccountant):
        found = kind().compose(SelfComposedDpEvent(sampled, 100)).get_epsilon(1e-5)
        sys.stderr.write(f"q=120/3383, z=1.2, T=100: {kind.__name__} {found:.4f}\n")


if __name__ == "__main__":
    main()
