"""What a network begins with before its first step: weights of its teachers, trained branches, a trained backbone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from bev_perception.plain import to_plain
from training.changes import differences
from training.data.augment import NO_AUGMENTATION
from training.distill.adapters import copy_weights
from training.distill.module import take_over
from training.models.backbones import FAN, ImageBackbone
from training.models.detector import Detector
from training.models.weights_file import read_weights_file
from training.run import Run, run_from_plain, with_state
from training.teachers.frozen import FrozenTeacher
from training.trainer.checkpoint import load_network, read_checkpoint


@dataclass(frozen=True)
class Start:
    """What a fresh network begins with besides its teachers' weights: the weights of a whole `network`, those of
    submodules by name (`branches`), those of its image `backbone`. Checkpoints of training.train; the backbone may be
    torchvision's ImageNet weights, too."""

    network: Path | None = None
    branches: Mapping[str, Path] = field(default_factory=dict)
    backbone: Path | None = None


FRESH = Start()
# Fields of Augmentation by which sensors and the memory are missing.
DROPOUT = ("drop_camera", "drop_all_cameras", "drop_radar", "drop_all_radars", "drop_prev")


def as_narrow_as(run: Run, path: Path | None) -> Run:
    """The run for the network of a checkpoint that it is to begin with, where training.prune cut that: with its widths
    and its state, and with nothing taken over from a teacher, whose weights are as wide as before.

    Raises ValueError where the run's network is another one than what was cut.
    """
    begun = None if path is None else run_from_plain(read_checkpoint(path)["run"], str(path))
    if begun is None or begun.cut is None or begun.cut == run.cut:
        return run
    if (run.model, run.config) != (begun.model, begun.config):
        changed = differences(to_plain(begun.config), to_plain(run.config))
        raise ValueError(
            f"--init {path} was cut out of a {begun.model}, this run trains another network: {begun.model} -> "
            f"{run.model} {'; '.join(changed[:5])}; take the experiment that the network was trained with before"
        )
    distill = run.distill and replace(run.distill, inherit_head="", start_from="", start_into="")
    spec = with_state(run.spec, begun.spec.temporal.state_channels)
    return replace(run, spec=spec, cut=begun.cut, distill=distill, backbone_from="")


def heads_upon(run: Run, path: Path | None) -> Run:
    """Of a run in which a head for the spread learns alone: upon the network of the checkpoint, whichever it is, with
    the data that it sees, of which sensors may be missing but nothing is made up. Other runs as they are."""
    if run.spread is None or not run.spread.alone or path is None:
        return run
    begun = run_from_plain(read_checkpoint(path)["run"], str(path))
    kept = {name: getattr(begun.data.augmentation, name) for name in DROPOUT}
    data = replace(begun.data, augmentation=replace(NO_AUGMENTATION, **kept), lidar=None, virtual=None, paste=None)
    spec = replace(begun.spec, spread=run.spread.parts)
    return replace(run, model=begun.model, config=begun.config, spec=spec, data=data, cut=begun.cut)


def begin_with(detector: Detector, run: Run, teachers: Mapping[str, FrozenTeacher], start: Start) -> None:
    """Overwrite fresh weights by all of this, the more of the network a source has the later.

    Raises ValueError when something that is named does not fit the network, and for a network of which a part never
    learns when nothing gives it weights.
    """
    _check_backbone_start(detector, run, start)
    if start.backbone is not None:
        start_backbone(detector, start.backbone)
    start_from_teachers(detector, run, teachers)
    start_branches(detector, start.branches)
    if start.network is not None:
        start_network(detector, start.network)


def _check_backbone_start(detector: Detector, run: Run, start: Start) -> None:
    if start.backbone is not None or start.network is not None:
        return
    if run.spread is not None and run.spread.alone:
        raise ValueError("only the head for the spread learns in this run: name the trained network with --init")
    frozen = [name for name, parameter in detector.named_parameters() if not parameter.requires_grad]
    if frozen:
        raise ValueError(
            f"{len(frozen)} tensors of {run.spec.name}, {frozen[0]} the first, never learn: give --backbone with "
            f"{run.backbone_from or 'trained'} weights (docs/training.md), or set config...image.frozen_stages=-1 and "
            "fixed_norms=false"
        )
    if run.backbone_from:
        print(f"published with an image backbone from {run.backbone_from}; without --backbone it starts afresh")


def start_from_teachers(student: Detector, run: Run, teachers: Mapping[str, FrozenTeacher]) -> None:
    """Overwrite fresh weights of the student with those of its teacher, as far as run.distill says."""
    if run.distill is None:
        return
    for what, (copied, kept) in take_over(student, run.distill, teachers).items():
        print(f"{what}: {len(copied)} tensors start from the teacher's, {len(kept)} afresh", flush=True)


def start_branches(student: Detector, checkpoints: Mapping[str, Path]) -> None:
    """Start a submodule, such as `radar`, from a trained network: its tensors of the same name and shape.

    Raises ValueError when there is no such submodule or nothing fits.
    """
    for branch, path in checkpoints.items():
        if branch not in dict(student.named_modules()):
            raise ValueError(f"--init-branch {branch}: the network has {[n for n, _ in student.named_children()]}")
        copied, kept = copy_weights(student, load_network(path).detector.state_dict(), f"{branch}.")
        print(f"{branch}: {len(copied)} tensors from {path}, {len(kept)} afresh", flush=True)


def start_network(detector: Detector, path: Path) -> None:
    """Begin with all weights of a checkpoint; of a network without a head for the spread, one that has it begins that
    afresh. Raises ValueError when it is of another network."""
    weights, own = load_network(path).detector.state_dict(), detector.state_dict()
    fresh = {name: tensor for name, tensor in own.items() if ".spread." in name and name not in weights}
    with _fitting(f"--init {path}"):
        detector.load_state_dict(weights | fresh)


def start_backbone(detector: Detector, path: Path) -> None:
    """Begin with a trained image backbone: torchvision's ImageNet weights (its state dict), or that of a checkpoint of
    training.train.

    Raises ValueError for a network or a checkpoint without image backbone, for ImageNet weights of a network that has
    no published ones, and when the parameters differ.
    """
    backbone = _image_backbone(detector, type(detector).__name__)
    content = read_weights_file(path)
    with _fitting(f"--backbone {path}"):
        if isinstance(content, dict) and "run" in content:
            backbone.load_state_dict(_image_backbone(load_network(path).detector, str(path)).state_dict())
        elif isinstance(backbone, FAN):
            raise ValueError(
                f"--backbone {path}: there is no ImageNet file for FAN here; give a checkpoint of training.train whose "
                "backbone is FAN, too, or leave --backbone out"
            )
        else:
            backbone.load_imagenet(str(path))
    print(f"the image backbone starts from {path}", flush=True)


def _image_backbone(detector: Detector, whose: str) -> ImageBackbone:
    found = [m for m in detector.modules() if isinstance(m, ImageBackbone)]
    if len(found) != 1:
        raise ValueError(f"--backbone: {whose} has {len(found)} image backbones, expected one")
    return found[0]


@contextmanager
def _fitting(what: str) -> Iterator[None]:
    """Within: weights of another network (PyTorch's RuntimeError) are a ValueError that names where they come from."""
    try:
        yield
    except RuntimeError as error:
        raise ValueError(f"{what} does not fit this network: {error}") from error
