"""Teacher outputs on disk: what a teacher says of a sample, once, in half precision.

One .npz per sample, DIR/<hash of teacher and data>/<token>.npz: no pickles, and with each array its CRC-32, which is
checked whenever it is read.
A cache is filled before training (training.trainer.teaching); then neither the teacher nor its points are needed.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import uuid
import zipfile
from collections.abc import Callable, Iterable, Sequence, Set
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from bev_perception.model_spec import ADDED_LATER, ModelSpec
from bev_perception.places import in_first
from bev_perception.plain import to_plain
from training.data.augment import changes
from training.data.config import DataConfig
from training.models.detector import Detector, Prediction

SUFFIX = ".npz"
# Of ADDED_LATER those that were there when hashes were first made. Any later one counts where it says what a spec of
# then could not say: many a cache is older.
ALWAYS_HASHED = ("weights_sha256", "nms", "precision")
NAME_ANOTHER = "make room, or name another folder with --teacher-cache"


def teacher_hash(detector: Detector) -> str:
    """sha256 over a network's spec, config and weights."""
    digest = hashlib.sha256(type(detector).__name__.encode())
    older = {name: value for name, value in ADDED_LATER[ModelSpec].items() if name not in ALWAYS_HASHED}
    spec = {f.name: getattr(detector.spec, f.name) for f in dataclasses.fields(ModelSpec)}
    spec = {name: value for name, value in spec.items() if name not in older or value != older[name]}
    digest.update(f"{json.dumps(to_plain(spec), indent=2)}\n".encode())
    digest.update(json.dumps(to_plain(detector.config), sort_keys=True).encode())
    for name, tensor in sorted(detector.state_dict().items()):
        array = np.ascontiguousarray(tensor.detach().cpu().float().numpy())
        digest.update(f"{name} {array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def refuse_random_inputs(data: DataConfig, spec: ModelSpec) -> None:
    """Raises ValueError unless a teacher of this spec sees a sample alike every time.

    What moves the ego frame or adds objects changes the teacher's map in any case; images and dropout matter to a
    teacher that has those sensors, drawn intervals to one with memory.
    """
    images, sensors, memory = bool(spec.cameras), bool(spec.cameras or spec.radars), spec.temporal.state_channels > 0
    drawn_in_images = ("image_", "brightness", "contrast", "photometric", "grid_mask", "view")
    harmless: tuple[str, ...] = drawn_in_images if not images else ()
    harmless += ("drop_",) if not sensors and not memory else ()
    changed = [f"augmentation.{name}" for name in changes(data.augmentation) if not name.startswith(harmless)]
    changed += [name for name in ("paste",) if getattr(data, name, None)]
    changed += ["interval"] if memory and data.interval is not None else []
    if changed:
        raise ValueError(
            f"a teacher's outputs cannot be cached while these change what it sees: {changed}; "
            "switch them off or train without a cache"
        )


class TeacherCache:
    """Outputs of one teacher for the samples of one data set, in a folder of DIR that is named after the teacher's
    weights and the data it sees.

    tokens: sample tokens in the order that batch["index"] (B,) counts; digest: of the data set's index, since tokens of
    two synthetic sets are alike. A filled cache gives what it gave when it was filled: fresh outputs pass through half
    precision, too. Raises ValueError when the data's augmentation forbids it.
    """

    def __init__(
        self, folder: str | Path, detector: Detector, tokens: Sequence[str], data: DataConfig, digest: str
    ) -> None:
        refuse_random_inputs(data, detector.spec)
        spec = detector.spec
        facts = ("lidar", "virtual", *(["returns"] if spec.radars else []))
        seen = {name: to_plain(getattr(data, name)) for name in facts}
        if spec.temporal.state_channels:
            seen["history"] = data.history
        key = teacher_hash(detector) + digest + json.dumps(seen, sort_keys=True)
        self.folder = Path(folder) / hashlib.sha256(key.encode()).hexdigest()[:32]
        in_first([self.folder], "teachers' outputs", print, lambda place: place, NAME_ANOTHER)
        self.tokens = tokens
        self.hits = self.misses = 0

    def path(self, token: str) -> Path:
        return self.folder / f"{token}{SUFFIX}"

    def lacking(self, features: Set[str], rows: Iterable[int]) -> list[int]:
        """Those `rows` of `tokens` of which some of heatmap, regression and the named features are not stored."""
        wanted = {f"{name}.npy" for name in stored_names(features)}
        return [row for row in rows if not wanted <= self._stored(self.tokens[row])]

    def _stored(self, token: str) -> Set[str]:
        if not self.path(token).is_file():
            return set()
        try:
            with zipfile.ZipFile(self.path(token)) as archive:
                return set(archive.namelist())
        except zipfile.BadZipFile:
            return set()  # reading it says so

    def predict(self, batch: dict[str, Tensor], compute: Callable[[], Prediction], features: Set[str]) -> Prediction:
        """The prediction for a batch with the named features (aux as "aux.<name>"), computed where a sample lacks.

        Raises ValueError when it must be computed and the batch has not what the teacher senses.
        """
        wanted = stored_names(features)
        tokens = [self.tokens[i] for i in batch["index"].tolist()]
        stored = [self.read(token, wanted) for token in tokens]
        if all(wanted == set(row) for row in stored):
            self.hits += len(tokens)
            return _unpack({name: _stacked([row[name] for row in stored]).to(batch["index"].device) for name in wanted})
        self.misses += len(tokens)
        try:
            fresh = compute()
        except KeyError as error:  # inputs are left out once a cache is filled
            lost = [token for token, row in zip(tokens, stored, strict=True) if wanted != set(row)]
            raise ValueError(
                f"{self.folder}: nothing is stored for {lost} and the batch has no {error} to ask the teacher again; "
                "start the run again, it fills its cache first"
            ) from error
        tensors = {name: _half(tensor, name) for name, tensor in _pack(fresh, wanted).items()}
        for i, token in enumerate(tokens):
            self.write(token, self.read(token) | {name: tensor[i] for name, tensor in tensors.items()})
        return _unpack({name: tensor.float() for name, tensor in tensors.items()})

    def write(self, token: str, tensors: dict[str, Tensor]) -> None:
        """Store one sample, all or nothing. Raises OSError that says what to do where there is no room."""
        part = self.folder / f".{token}.{uuid.uuid4().hex}{SUFFIX}"
        try:
            np.savez(part, **{name: tensors[name].cpu().numpy() for name in sorted(tensors)})  # type: ignore[arg-type]
            os.replace(part, self.path(token))
        except OSError as error:
            raise OSError(f"{part.parent}: cannot be written ({error.strerror or error}); {NAME_ANOTHER}") from error
        finally:
            part.unlink(missing_ok=True)

    def read(self, token: str, wanted: Set[str] | None = None) -> dict[str, Tensor]:
        """One sample's half precision tensors: all, or those of `wanted` that are stored; none where there is no file.
        Raises ValueError for a damaged one."""
        path = self.path(token)
        if not path.is_file():
            return {}
        try:
            with np.load(path, allow_pickle=False) as arrays:
                return {name: torch.from_numpy(arrays[name]) for name in arrays.files if not wanted or name in wanted}
        except Exception as error:  # whatever zipfile stumbles over in a damaged archive
            raise ValueError(
                f"{path}: the cached teacher output cannot be read ({error!r}); delete it, it is made again"
            ) from error


def stored_names(features: Set[str]) -> set[str]:
    """What is kept for terms that read the named features."""
    return {"heatmap", "regression", *features}


def _pack(prediction: Prediction, wanted: Set[str]) -> dict[str, Tensor]:
    """The tensors that the cache keeps, by the names that terms use."""
    known = prediction.features | {f"aux.{n}": t for n, t in prediction.aux.items()}
    known |= {"heatmap": prediction.heatmap, "regression": prediction.regression}
    absent = sorted(wanted - set(known))
    if absent:
        raise KeyError(f"the teacher has no {absent}; it has {sorted(known)}")
    return {name: known[name].detach() for name in wanted}


def _unpack(tensors: dict[str, Tensor]) -> Prediction:
    aux = {name[4:]: t for name, t in tensors.items() if name.startswith("aux.")}
    features = {n: t for n, t in tensors.items() if n not in ("heatmap", "regression") and not n.startswith("aux.")}
    return Prediction(tensors["heatmap"], tensors["regression"], aux=aux, features=features)


def _stacked(halves: Sequence[Tensor]) -> Tensor:
    """In single precision: autocast on a CPU has no stack of halves."""
    whole = torch.empty(len(halves), *halves[0].shape)
    for i, half in enumerate(halves):
        whole[i] = half
    return whole


def _half(tensor: Tensor, name: str) -> Tensor:
    half = tensor.to(torch.float16)
    if not torch.isfinite(half).all():
        raise ValueError(
            f"the teacher's {name} does not fit half precision (largest magnitude {float(tensor.abs().max()):g}); "
            "train without a cache"
        )
    return half
