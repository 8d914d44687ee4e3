"""Sensors switched off as the vehicle switches off what is missing: what a network loses without them."""

from __future__ import annotations

import torch
from torch import Tensor

from bev_perception.model_spec import ModelSpec
from bev_perception.structures import SensorFrame

RADAR_PLACES = ("radar_cells",)  # say where, not what: they stay, an empty pillar has a cell too
# Word -> what stays on.
MASKS: dict[str, frozenset[str]] = {
    "no_temporal": frozenset({"cameras", "radars"}),
    "camera": frozenset({"cameras"}),
    "radar": frozenset({"radars"}),
    "camera+temporal": frozenset({"cameras", "memory"}),
    "radar+temporal": frozenset({"radars", "memory"}),
}


def kept_by(word: str, spec: ModelSpec) -> frozenset[str]:
    """What of cameras, radars and memory `word` leaves on: `all`, a key of MASKS, or `blank:` and a camera.

    Raises ValueError for other words and for those that do not apply to the model.
    """
    parts = {"cameras": spec.cameras, "radars": spec.radars, "memory": spec.temporal.state_channels}
    has = frozenset(name for name, part in parts.items() if part)
    if word == "all" or (word.startswith("blank:") and word.removeprefix("blank:") in spec.cameras):
        return has
    if word not in MASKS:
        raise ValueError(
            f"--sensors {word}: expected all, one of {list(MASKS)} or blank:CAMERA with one of {spec.cameras}"
        )
    kept = MASKS[word] & has if word == "no_temporal" else MASKS[word]
    if not kept <= has or not kept or kept == has:
        does = "changes nothing of" if kept == has else f"needs {', '.join(sorted(MASKS[word]))} of"
        raise ValueError(f"--sensors {word} {does} {spec.name}, which has {', '.join(sorted(has)) or 'only LiDAR'}")
    return kept


def mask_sensors(batch: dict[str, Tensor], word: str, spec: ModelSpec) -> dict[str, Tensor]:
    """A batch of ClipDataset with what `word` leaves out blanked, now and in earlier frames. Raises as `kept_by`."""
    kept, blanked = kept_by(word, spec), word.removeprefix("blank:")
    batch = dict(batch)
    if "memory" not in kept and "prev_valid" in batch:
        batch["prev_valid"] = torch.zeros_like(batch["prev_valid"])
    radar_inputs = {t.name for t in spec.inputs() if t.name.startswith("radar_")} - set(RADAR_PLACES)
    alive = torch.tensor([float("cameras" in kept and name != blanked) for name in spec.cameras])
    for prefix in ("", "prev."):
        if prefix + "images" in batch:
            batch[prefix + "camera_valid"] = batch[prefix + "camera_valid"] * alive
            batch[prefix + "images"] = batch[prefix + "images"] * alive[:, None, None, None].to(torch.uint8)
        for name in () if "radars" in kept else radar_inputs:
            if prefix + name in batch:
                batch[prefix + name] = torch.zeros_like(batch[prefix + name])
    return batch


def mask_frame(frame: SensorFrame, word: str, spec: ModelSpec) -> SensorFrame:
    """A frame without the sensors that `word` leaves out, as if they had sent nothing. Raises as `kept_by`.

    Leaving out the memory is the caller's: a pipeline that has seen no frame.
    """
    kept, blanked = kept_by(word, spec), word.removeprefix("blank:")
    off = {name for name in spec.cameras if "cameras" not in kept or name == blanked}
    off |= {name for name in spec.radars if "radars" not in kept}
    return frame.without(off, spec.cameras, spec.radars)
