"""Do the intervals hold? `python -m training.data_need.simulate`: made-up experiments whose answer is known."""

from __future__ import annotations

import argparse

import numpy as np

from training.command_line import errors_as_text
from training.data_need.curves import FAMILIES, Curve
from training.data_need.estimating import estimate

UNIT, SCATTER = 1000.0, 0.004
SIZES = np.linspace(0.1, 1.0, 10) * UNIT
# As a detector's may be: about 0.25 at the largest size that is measured, 0.4 and more far beyond.
TRUTHS = {
    "power": (0.3, 0.45, 0.55),
    "logarithmic": (0.06, 0.05, 0.26),
    "arctan": (0.35, 0.3, -0.15),
    "algebraic": (0.8, 0.5, 0.05),
}


def truth(family: str) -> Curve:
    """The curve that experiments of a family scatter about."""
    return Curve(family, TRUTHS[family], UNIT, 0.0)


@errors_as_text
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m training.data_need.simulate", description=__doc__)
    parser.add_argument("--experiments", type=int, default=5, help="of each kind")
    parser.add_argument("--seed", type=int, default=11)
    args = parser.parse_args(argv)
    rng, held = np.random.default_rng(args.seed), []
    print("| curve | needed | interval holds it | median estimate | power law alone |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for family in FAMILIES:
        for needed in (1.5 * UNIT, 3.0 * UNIT):
            target, found = float(truth(family)(needed)), []
            for _ in range(args.experiments):
                scores = truth(family)(SIZES) + rng.normal(0.0, SCATTER, len(SIZES))
                found.append(estimate(SIZES.tolist(), scores.tolist(), target, int(rng.integers(1_000_000))))
            inside = [need.low <= needed <= need.high for need in found]
            held += inside
            middle, naive = np.median([need.middle for need in found]), np.median([need.naive for need in found])
            counts = f"{needed:.0f} | {sum(inside)} of {len(inside)}"
            print(f"| {family} | {counts} | {middle:.0f} | {naive:.0f} |", flush=True)
    print(f"\n{sum(held)} of {len(held)} intervals hold what is needed")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
