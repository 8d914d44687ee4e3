"""What keeps this rig from detecting? A recording or a live system against the parameters, one line for each check.

    ros2 run bev_perception doctor BAG --params my.param.yaml
    ros2 run bev_perception doctor --live --params my.param.yaml --seconds 20

Each line says what was found, what was expected and how it is mended. The messages take the way that they take in the
node; nothing is published. The exit status is 1 where there is an error.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from bev_perception.bags.storage import BagError
from bev_perception.bundle import Bundle, load_bundle
from bev_perception.calibration import CalibrationError
from bev_perception.evaluation.bag import GROUND_TRUTH_TOPIC
from bev_perception.evaluation.telling import Progress
from bev_perception.model_spec import BundleError
from bev_perception.parameters import (
    SHIPPED_PARAMETERS,
    NodeConfig,
    ParameterError,
    load_config,
    parse_yaml,
    resolve_path,
)
from bev_perception.rig.checks import check_all
from bev_perception.rig.finding import Finding, has_errors, lines, summed_up, to_plain
from bev_perception.rig.from_bag import listen_to_bag
from bev_perception.rig.from_live import listen_live
from bev_perception.rig.machine import check_machine, look_at_machine


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="doctor", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bag", type=Path, nargs="?", help="a rosbag2 recording")
    parser.add_argument("--live", action="store_true", help="listen to the system that runs, instead of a recording")
    parser.add_argument("--seconds", type=float, default=20.0, help="how long to listen (default: %(default)g)")
    parser.add_argument(
        "--use-sim-time", action="store_true", help="live: take the time of /clock, as where a bag is played with it"
    )
    parser.add_argument(
        "--params", type=Path, default=SHIPPED_PARAMETERS, help="the node's parameter YAML (default: the shipped one)"
    )
    parser.add_argument("--bundle", type=Path, help="the model (default: that of the parameters)")
    parser.add_argument(
        "--boxes", default=GROUND_TRUTH_TOPIC, metavar="TOPIC", help="boxes by which places are checked (%(default)s)"
    )
    parser.add_argument("--no-machine", action="store_true", help="leave out engine, GPU, packages and buffers")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the findings there too; - prints nothing else")
    args = parser.parse_args(argv)
    if args.live == (args.bag is not None):
        parser.error("give a recording, or --live")
    try:
        with_machine = not args.no_machine
        findings = examine(
            args.bag, args.params, args.bundle, args.seconds, with_machine, args.use_sim_time, args.boxes
        )
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    report(findings, args.json)
    return int(has_errors(findings))


def examine(
    bag: Path | None,
    params: Path,
    bundle_path: Path | None,
    seconds: float,
    with_machine: bool,
    use_sim_time: bool = False,
    boxes: str = GROUND_TRUTH_TOPIC,
) -> list[Finding]:
    """All findings. bag None: the live system, for so long, by its own time where it is simulated. boxes: topic."""
    try:
        bundle, config = load(params, bundle_path)
    except (BundleError, OSError) as error:
        return [Finding("bundle", "error", str(error), "a whole bundle", "set `bundle`, or give --bundle")]
    except ParameterError as error:
        mend = "docs/parameters.md lists every parameter"
        return [Finding("parameters", "error", line, "", mend) for line in str(error).splitlines()]
    spec = bundle.spec
    has = f"{spec.name}: {len(spec.cameras)} cameras, {len(spec.radars)} radars, {len(spec.classes)} classes"
    absent = f"; absent: {', '.join(config.absent)}" if config.absent else ""
    findings = [Finding("bundle", "ok", has + absent)]
    if with_machine:
        findings += check_machine(look_at_machine(config, bundle))
    try:
        if bag is None:
            summary = listen_live(config, spec, seconds, use_sim_time, boxes)
        else:
            summary = listen_to_bag(bag, config, spec, Progress(), boxes)
    except BagError as error:
        return [*findings, Finding("recording", "error", str(error), "a rosbag2 recording")]
    except CalibrationError as error:
        return [*findings, Finding("extrinsics", "error", str(error), "a calibration file that can be used")]
    return findings + check_all(summary)


def load(params: Path, bundle_path: Path | None) -> tuple[Bundle, NodeConfig]:
    """The bundle that is given or that the parameters name, and the parameters for it. Raises BundleError,
    ParameterError, OSError."""
    if bundle_path is None:
        named = parse_yaml(params).get("bundle")
        if not named:
            raise ParameterError(f"bundle: {params} names none; give --bundle")
        bundle_path = resolve_path(str(named))
    return load_bundle(bundle_path), load_config(bundle_path, params)


def report(findings: list[Finding], json_path: Path | None) -> None:
    """Print the lines; write JSON beside them, or instead of them."""
    plain = json.dumps({"findings": to_plain(findings), "ok": not has_errors(findings)}, indent=1, ensure_ascii=False)
    if json_path is not None and str(json_path) == "-":
        print(plain)
        return
    if json_path is not None:
        json_path.write_text(plain + "\n", encoding="utf-8")
    print(*lines(findings), sep="\n")
    print(summed_up(findings))


if __name__ == "__main__":
    sys.exit(main())
