"""The weights of a student as safetensors, for whoever goes on in torch: names, numbers and what builds the network.

Such a file holds no code and nothing that is unpickled (https://github.com/huggingface/safetensors).
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from bev_perception.plain import parse_json
from training.models.detector import Detector
from training.models.weights_file import fitting_weights
from training.run import Run, build_detector, run_from_plain, run_to_plain

WEIGHTS = "model.safetensors"
RUN_KEY = "bev_perception.run"  # of the file's metadata: the run, whose `build_detector` makes the network


def weights_file(student: Detector, run: Run) -> bytes:
    """The state dict of a student that `build_detector(run)` made, its training-only parts included, with the run and
    the student's spec. Raises ImportError without safetensors."""
    from safetensors.torch import save

    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in student.state_dict().items()}
    plain = run_to_plain(dataclasses.replace(run, spec=student.spec))
    return save(tensors, {"format": "pt", RUN_KEY: json.dumps(plain, sort_keys=True)})


def read_student(path: str | Path) -> Detector:
    """The student of such a file or of the bundle that holds it, in eval mode, on the CPU.

    Raises ValueError where the file is damaged or of another network, OSError, ImportError without safetensors.
    """
    from safetensors import SafetensorError, safe_open

    path = Path(path) / WEIGHTS if Path(path).is_dir() else Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not there; `training.export` writes it with --safetensors")
    try:
        with safe_open(path, framework="pt") as file:  # type: ignore[no-untyped-call]
            run_text = (file.metadata() or {}).get(RUN_KEY)
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except SafetensorError as error:
        raise ValueError(f"{path}: no intact file of safetensors ({error}); copy it again") from error
    if run_text is None:
        raise ValueError(f"{path}: does not say which network it is of ({RUN_KEY}); export the bundle again")
    student = build_detector(run_from_plain(parse_json(run_text), str(path)))
    student.load_state_dict(fitting_weights(tensors, student.state_dict(), str(path)))
    student.eval()
    return student
