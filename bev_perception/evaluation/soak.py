"""The node for an hour under the load of a car: do memory, threads and file descriptors stay what they were?

    python -m bev_perception.evaluation.soak [--minutes 60] [--out docs/data/soak.csv]

The engine answers at once after its first runs, so that every frame is processed: what is looked at is all the rest.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from dataclasses import astuple, dataclass, fields
from pathlib import Path

from bev_perception.evaluation.bench_node import running_node
from bev_perception.evaluation.process import StageError, ends_with_its_children
from bev_perception.files import write_atomic
from bev_perception.parameters import SHIPPED_BUNDLE

IMAGES = "352x198"
EVERY_S = 30.0
MOST_GROWTH_MB = 20.0  # what allocators keep; a leak of a kilobyte a frame would be 40 MB in an hour


@dataclass(frozen=True)
class Sample:
    """minute: since the node was active. rss_mb: resident memory."""

    minute: float
    rss_mb: float
    threads: int
    descriptors: int


def look(pid: int, since: float) -> Sample:
    """From /proc."""
    rows = (row.split(":", 1) for row in Path(f"/proc/{pid}/status").read_text().splitlines())
    status = {name: value.split()[0] for name, value in rows if value.strip()}
    descriptors = len(list(Path(f"/proc/{pid}/fd").iterdir()))
    minute = (time.monotonic() - since) / 60
    return Sample(round(minute, 2), round(int(status["VmRSS"]) / 1024, 1), int(status["Threads"]), descriptors)


def soak(minutes: float, out: Path) -> list[Sample]:
    """Node and car as processes; the samples are written as they come. Raises StageError."""
    samples: list[Sample] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        play = ("--params", str(folder / "played.yaml"), "--images", IMAGES, "--seconds", str(60 * minutes))
        with running_node(folder, SHIPPED_BUNDLE) as node:
            with node.start("car", "bev_perception.ros.load", "play", *play) as car:
                time.sleep(2.0)
                pid, began = node.told()["pid"], time.monotonic()
                while car.running:
                    samples.append(look(pid, began))
                    rows = [",".join(field.name for field in fields(Sample))]
                    rows += [",".join(map(str, astuple(sample))) for sample in samples]
                    write_atomic(out, "\n".join(rows) + "\n")
                    end = time.monotonic() + EVERY_S
                    while car.running and time.monotonic() < end:
                        node.process.check()
                        time.sleep(0.5)
                car.wait(10)  # with status 0
                print(car.tail())
    if not samples:
        raise StageError("the car ended before the first look")
    return samples


@ends_with_its_children
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bev_perception.evaluation.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--out", type=Path, default=Path("out/soak.csv"))
    args = parser.parse_args(argv)
    try:
        samples = soak(args.minutes, args.out)
    except (StageError, OSError) as error:
        print(f"soak: {error}", file=sys.stderr)
        return 1
    settled = [sample for sample in samples if sample.minute >= min(5.0, args.minutes / 2)] or samples
    first, last = settled[0], settled[-1]
    print(f"{len(samples)} samples in {samples[-1].minute:.0f} minutes, from minute {first.minute:.0f} on:")
    print(f"  memory {first.rss_mb:.0f} -> {last.rss_mb:.0f} MB, at most {max(s.rss_mb for s in settled):.0f}")
    print(f"  threads {first.threads} -> {last.threads}, descriptors {first.descriptors} -> {last.descriptors}")
    grown = last.rss_mb - first.rss_mb > MOST_GROWTH_MB or (last.threads, last.descriptors) > (
        first.threads,
        first.descriptors,
    )
    print("  they grew" if grown else "  they stayed what they were")
    return int(grown)


if __name__ == "__main__":
    sys.exit(main())
