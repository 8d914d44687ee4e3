"""The folder of a replay's results: what in it is ours."""

from __future__ import annotations

import hashlib
import json
import tempfile
from pathlib import Path

from bev_perception.bags.storage import BagError
from bev_perception.evaluation.result_json import is_detection_json
from bev_perception.evaluation.tally_file import is_tally
from bev_perception.evaluation.worth import is_worth

# The folder and, with .json, the file of what was found; the scores, the matched boxes that they are made from, and
# whether probabilities and intervals hold.
DETECTIONS, SCORES, TALLY, WORTH = "detections", "scores.json", "tally.npz", "worth.json"


def claim(out: Path) -> None:
    """Raises BagError where results cannot be written, or would replace what is not a result of ours."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out) as probe:
            probe.write(bytes(4096))
    except OSError as error:
        raise BagError(f"{out} cannot be written ({error.strerror}): name another folder with --out") from error
    for path, is_ours in (
        (out / f"{DETECTIONS}.json", is_detection_json),
        (out / SCORES, _is_scores),
        (out / TALLY, is_tally),
        (out / WORTH, is_worth),
    ):
        if path.exists() and not is_ours(path):
            raise BagError(f"{path} was not written by a replay and is not replaced: move it, or choose another --out")


def _is_scores(path: Path) -> bool:
    try:
        return {"mean_ap", "nds"} <= set(json.loads(path.read_text()))
    except (OSError, ValueError, TypeError, RecursionError):
        return False


def sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while data := file.read(1 << 20):
            digest.update(data)
    return digest.hexdigest()
