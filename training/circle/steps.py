"""The commands of the circle in their order, each as a person would give it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from bev_perception.deployment.folder import JOURNAL
from bev_perception.deployment.rollout import DONE, REFUSED, ROLLED_BACK
from bev_perception.evaluation.bag import DETECTIONS_TOPIC, STATUS_TOPIC

HERE = Path(os.path.relpath(Path(__file__).parent))
CHECKPOINTS = HERE.parent / "checkpoints"
STUDENT, TEACHER = CHECKPOINTS / "demo_start.ckpt", CHECKPOINTS / "centerpoint_near.ckpt"
RADAR, GATE = HERE / "fleet_radar.yaml", HERE / "gate.yaml"
FLEET_SEED, HELD_OUT_SEED = 2001, 2101  # the first drive of each: towns that no network of this repository has seen
LIDAR_TOPIC = "/lidar/top/points"
# Cameras at 2 Hz, as fast as two cores that other work shares run two networks: what is silent for longer is missing.
PARAMETERS = ("sync.period_ms=500", "sync.silence_ms=3000", "sync.startup_ms=3000", "backend=openvino")
PYTHON = ("python", "-m")
DRIVES = HELD_OUT_SEED - FLEET_SEED  # of each kind at most, or a town would be both learnt from and scored on
LIMITS = {
    "fleet": (1, DRIVES), "held_out": (1, DRIVES), "seconds": (5.0, 600.0), "teacher_steps": (1, 10**6),
    "steps": (1, 10**6), "share": (0.01, 1.0), "rate": (0.01, 10.0), "deploy_rate": (0.01, 10.0), "workers": (1, 4096),
}  # fmt: skip


@dataclass(frozen=True)
class Settings:
    """fleet, held_out: drives of each kind; seconds: of a drive; teacher_steps, steps: of training; share: of the
    scenes that are chosen; rate, deploy_rate: at which drives are played, and at which while something is deployed;
    workers: processes that render."""

    fleet: int = 8
    held_out: int = 4
    seconds: float = 10.0
    teacher_steps: int = 40
    steps: int = 160
    share: float = 0.6
    rate: float = 1.0
    deploy_rate: float = 1.0
    workers: int = 2

    def __post_init__(self) -> None:
        """Raises ValueError, before anything is begun."""
        for name, (low, high) in LIMITS.items():
            if not low <= (found := getattr(self, name)) <= high:
                flag = f"--{name.replace('_', '-')}"
                raise ValueError(f"{flag} is {found:g}, expected a number within [{low:g}, {high:g}]")


@dataclass(frozen=True)
class Step:
    """One command. stage: what it is a part of, once for several; why: what it is for; product: what is there when it
    was done. deploys, verdict: which bundle it asks the vehicle to take, and how that is to end; "" for none.
    reasons: of which it is to end for one. clears: what goes before it is done anew, None for its product. needs: what
    it builds on beside what its command names."""

    stage: str
    why: str
    command: tuple[str, ...]
    product: Path
    deploys: str = ""
    verdict: str = ""
    reasons: tuple[str, ...] = ()
    clears: tuple[Path, ...] | None = None
    needs: tuple[Path, ...] = ()

    def builds_on(self, earlier: Step) -> bool:
        """Whether it takes what an earlier step made, or the folder that this lies in."""
        named = {Path(part) for word in self.command for part in word.split("=") if part}
        return bool({*named, *self.needs} & ({earlier.product, *earlier.product.parents} - {Path()}))


def steps(out: Path, settings: Settings) -> list[Step]:
    """All of them. out: the folder for everything."""
    return [
        *drives(out, settings),
        *tables(out, settings),
        *first_bundle(out),
        *learning(out, settings),
        *next_bundle(out),
        *vehicle(out, settings),
    ]


def fleet_drives(settings: Settings) -> list[int]:
    return list(range(FLEET_SEED, FLEET_SEED + settings.fleet))


def held_out_drives(settings: Settings) -> list[int]:
    return list(range(HELD_OUT_SEED, HELD_OUT_SEED + settings.held_out))


def drive(out: Path, kind: str, seed: int) -> Path:
    return out / "drives" / f"{kind}_{seed}"


def drives(out: Path, settings: Settings) -> list[Step]:
    """Rendered; those of the fleet are recorded by its vehicles."""
    rates = ("--camera-hz", "2", "--lidar-hz", "10", "--lidar")
    size = ("--duration", f"{settings.seconds:g}", "--scale", "0.22", "--workers", str(settings.workers), "--keep")
    rendered = [
        Step(
            "drives",
            f"A drive with the fleet's radar, {'held out' if kind == 'held_out' else 'to learn from'}",
            (
                *PYTHON, "training.world", "bag", str(drive(out, kind, seed)), "--seed", str(seed), *rates, *size,
                "--radar-profile", str(RADAR),
            ),
            drive(out, kind, seed),
        )
        for kind, seeds in (("fleet", fleet_drives(settings)), ("held_out", held_out_drives(settings)))
        for seed in seeds
    ]  # fmt: skip
    return [*rendered, *(recording(out, seed, settings) for seed in fleet_drives(settings))]


def recording(out: Path, seed: int, settings: Settings) -> Step:
    """A vehicle of the fleet drives, its node runs, and all is recorded."""
    bag = drive(out, "recorded", seed)
    command = (
        *PYTHON, "bev_perception.evaluation.live", str(drive(out, "fleet", seed)), "--out", str(out / "recording"),
        "--set", *PARAMETERS, "--rate", f"{settings.rate:g}", "--record", str(bag),
    )  # fmt: skip
    return Step("record", "It is driven with the running node, and recorded", command, bag)


def tables(out: Path, settings: Settings) -> list[Step]:
    """Bags become one data set; the node's own parameters say what is in them."""

    def table(bag: Path, split: str, *more: str) -> Step:
        command = (
            *PYTHON, "training.bag_to_nuscenes", str(bag), str(out / "data"), "--params",
            str(out / "recording" / "params.yaml"), "--lidar", LIDAR_TOPIC, "--split", split, *more,
        )  # fmt: skip
        return Step("tables", f"{bag.name} as training data", command, out / "data" / ".drives" / bag.name)

    short = ("--scene-seconds", "5")  # what is chosen from: half of a drive
    recorded = [drive(out, "recorded", seed) for seed in fleet_drives(settings)]
    held_out = [drive(out, "held_out", seed) for seed in held_out_drives(settings)]
    return [*(table(bag, "train", *short) for bag in recorded), *(table(bag, "val") for bag in held_out)]


def first_bundle(out: Path) -> list[Step]:
    """What the fleet runs today, with its scores on the fleet's drives: the gate compares like with like."""
    data = str(out / "data")
    return [
        Step("score", "How good is the shipped student on the held-out drives?",
             (*PYTHON, "training.evaluate", str(STUDENT), "--data", data, "--out", str(out / "before.json")),
             out / "before.json"),
        Step("export", "The bundle in service, which states these scores",
             (*PYTHON, "training.export", str(STUDENT), str(out / "before"), "--golden-data", data,
              "--scores", str(out / "before.json")), out / "before"),
    ]  # fmt: skip


def learning(out: Path, settings: Settings) -> list[Step]:
    """A teacher, the frames that are worth most, the student."""
    data, chosen, listed = str(out / "data"), out / "chosen", out / "chosen.json"
    teacher, student = out / "teacher" / "last.ckpt", out / "student" / "last.ckpt"

    return [
        Step("teach", "The LiDAR teacher, over the student's whole range",
             (*PYTHON, "training.train", "training.experiments.demo_distilled:teacher", "--data", data,
              "--out", str(out / "teacher"), "--init", str(TEACHER), "--set", f"optim.steps={settings.teacher_steps}",
              "optim.warmup_steps=10"),
             teacher, clears=(teacher.parent,)),
        Step("choose", "The scenes in which the student misses most of what its teacher finds",
             (*PYTHON, "training.select", data, "--checkpoint", str(STUDENT), "--teacher", str(teacher),
              "--by", "missed", "--scenes", "--budget", f"{100 * settings.share:g}%", "--out", str(listed),
              "--workers", str(settings.workers)), listed),
        Step("choose", "A data set that is learnt from in these alone",
             (*PYTHON, "training.data_engine.exchange", "view", str(listed), "--out", str(chosen)), chosen),
        Step("fine-tune", "The shipped student goes on, taught by it",
             (*PYTHON, "training.train", "training.experiments.circle:student", "--data", str(chosen),
              "--out", str(out / "student"), "--init", str(STUDENT), "--teacher", f"centerpoint={teacher}",
              "--teacher-cache", str(out / "teacher_cache"), "--set", f"optim.steps={settings.steps}"), student,
             clears=(student.parent, out / "teacher_cache")),
        Step("score", "How good is it now?",
             (*PYTHON, "training.evaluate", str(student), "--data", data, "--out", str(out / "after.json")),
             out / "after.json"),
    ]  # fmt: skip


def next_bundle(out: Path) -> list[Step]:
    """Exported, in 8 bits, let through by the gate, signed; and two that should not come into service."""
    data, key, public = str(out / "data"), str(out / "fleet.key"), str(out / "fleet.pub")

    def signed(bundle: str) -> Step:
        command = (*PYTHON, "bev_perception.signing", str(out / bundle), "--key", key)
        return Step("sign", f"Who made `{bundle}`", command, out / bundle / "model.sig")

    def spoilt(bundle: str, how: str, why: str) -> Step:
        command = (*PYTHON, "training.circle.spoilt", how, str(out / "better"), str(out / bundle))
        return Step("spoil", why, command, out / bundle)

    return [
        Step("export", "The bundle of it",
             (*PYTHON, "training.export", str(out / "student" / "last.ckpt"), str(out / "after"), "--golden-data", data,
              "--scores", str(out / "after.json")), out / "after"),
        Step("quantise", "The same in 8 bits, where it loses at most a point",
             (*PYTHON, "training.quantize", str(out / "after"), "--data", data, "--out", str(out / "better"),
              "--backend", "openvino", "--gate", "1"), out / "better"),
        Step("gate", "Would the vehicle let it in by what it states?",
             (*PYTHON, "training.circle.gate", str(out / "better"), "--in-service", str(out / "before"),
              "--gate", str(GATE), "--out", str(out / "gate.json")), out / "gate.json"),
        Step("sign", "A key of one's own",
             ("openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", key), Path(key)),
        Step("sign", "Its public half, for the vehicle", ("openssl", "ec", "-in", key, "-pubout", "-out", public),
             Path(public)),
        signed("better"),
        spoilt("bad", "damaged", "A bundle that states what `better` does, with a layer in disorder"),
        spoilt("slow", "slow", "One that finds what `better` does, by far more work"),
        signed("bad"),
        signed("slow"),
    ]  # fmt: skip


def vehicle(out: Path, settings: Settings) -> list[Step]:
    """The node with a held-out drive that is played to it, and what is deployed meanwhile."""
    held_out, published_in = str(drive(out, "held_out", HELD_OUT_SEED)), out / "published"
    journal = out / "vehicle" / JOURNAL
    folder = ("deploy.folder=" + str(journal.parent), "deploy.public_key=" + str(out / "fleet.pub"))
    node = (
        *PYTHON, "bev_perception.evaluation.live", held_out, "--out", str(out / "live"),
        "--bundle", str(out / "before"), "--set", *PARAMETERS, *folder, "--rate",
    )  # fmt: skip
    rate = settings.deploy_rate
    seconds = {"--shadow": 20 / rate, "--watch": 15 / rate}

    def published(name: str, why: str) -> Step:
        bag, scores = published_in / name, published_in / f"{name}.json"
        said = ("--record", str(bag), "--topics", DETECTIONS_TOPIC, STATUS_TOPIC, "--scores", str(scores))
        first = (journal.parent,) if name == "before" else ()  # which begins with the bundle that is told
        return Step("drive", why, (*node, f"{settings.rate:g}", *said), scores, clears=(scores, bag, *first))

    def deployed(bundle: str, why: str, verdict: str, *reasons: str, shadow: bool = True) -> Step:
        # One that is seen first while it serves is watched for longer: it ends with the breach.
        times = seconds if shadow else {"--shadow": 0.0, "--watch": 60 / rate}
        asked = [word for name, value in times.items() for word in (name, f"{value:g}")]
        command = (
            *node, f"{rate:g}", "--", "bev_perception.ros.deploy", str(out / bundle), *asked, "--gate", str(GATE),
            "--asked-by", asked_by(bundle),
        )  # fmt: skip
        begun = (published_in / "before.json",)
        return Step(f"deploy {bundle}", why, command, journal, bundle, verdict, reasons, clears=(), needs=begun)

    history = (*PYTHON, "bev_perception.ros.deploy", "--history", str(journal.parent))
    return [
        published("before", "A held-out drive with the model in service, scored by what the node publishes"),
        deployed("better", "The better one into the running node: check, shadow, switch, watch", DONE),
        published("after", "The same drive again"),
        deployed(
            "bad", "The bad one, which the shadow refuses", REFUSED, "empty_output", "disagrees", "not_finite_output"
        ),
        deployed(
            "slow",
            "The slow one, by somebody who leaves the shadow out: it is rolled back",
            ROLLED_BACK,
            "too_slow",
            shadow=False,
        ),
        Step("journal", "What the vehicle says of all this", history, journal, clears=()),
    ]


def asked_by(bundle: str) -> str:
    """Under which name the circle asks for a deployment."""
    return f"circle, {bundle}"
