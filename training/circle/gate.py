"""Whether a vehicle's gate lets a bundle in by what it states: facts and scores, before it is signed and sent.

    python -m training.circle.gate BUNDLE --in-service BUNDLE --gate gate.yaml --out gate.json

It is what the vehicle asks first (bev_perception.deployment.gate); how the model agrees with the one in service, and
how long it takes, only frames on the vehicle tell. Exit status 1 where it is refused.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from bev_perception.bundle import Bundle, load_bundle
from bev_perception.deployment.gate import TEXT_LIMIT, Gate, Judged, judge_facts, judge_scores, parse_gate
from bev_perception.files import naming, read_text, write_atomic
from bev_perception.stated_scores import read_scores
from training.command_line import errors_as_text


def judge(candidate: Bundle, in_service: Bundle, gate: Gate) -> Judged:
    """The first reason why not, else what the scores say."""
    facts = judge_facts(candidate.spec, in_service.spec, gate)
    return facts if facts.reason else judge_scores(read_scores(candidate), read_scores(in_service), gate)


@errors_as_text
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m training.circle.gate",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--in-service", type=Path, required=True, metavar="BUNDLE")
    parser.add_argument("--gate", type=Path, help="what must hold; docs/redeploy.md has the defaults")
    parser.add_argument("--out", type=Path, required=True, help="JSON of the figures, written where it passes")
    args = parser.parse_args(argv)
    with naming(args.gate or "gate"):
        gate = parse_gate(read_text(args.gate, TEXT_LIMIT) if args.gate else "")
    judged = judge(load_bundle(args.bundle), load_bundle(args.in_service), gate)
    figures = ", ".join(f"{name} {value:+.4f}" for name, value in judged.figures.items())
    print(f"{'refused' if judged.reason else 'passed'}: {judged.reason or judged.note or figures}")
    if judged.reason:
        print("it is not signed; a student that learns for longer may pass (`--steps` of the circle)")
    if not judged.reason:
        write_atomic(args.out, json.dumps({"note": judged.note, **judged.figures}, indent=1))
    return int(bool(judged.reason))


if __name__ == "__main__":
    raise SystemExit(main())
