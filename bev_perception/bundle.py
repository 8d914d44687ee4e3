"""A bundle on disk: one model with every fact about it and the proof of both, read within bounds and verified.

A bundle is a directory: model.onnx (which carries its facts in its metadata), model_spec.json, golden.npz (an input of
the network and the output it must give), golden_frame.npz (what the sensors of a drive gave, and the detections that it
must lead to), MODEL_CARD.md, and where it has them tables that are about the model alone: scores.json,
uncertainty.json, health.json. Nothing outside the directory is read.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np

from bev_perception.array_file import read_arrays
from bev_perception.files import aside, read_bytes, read_text, replace_folder, write_atomic
from bev_perception.model_spec import BundleError, ModelSpec, parse_facts, parse_spec
from bev_perception.onnx_file import read_metadata, with_metadata, with_weights_inside
from bev_perception.plain import AddedLater, from_plain, parse_json

MODEL, SPEC, GOLDEN, GOLDEN_FRAME = "model.onnx", "model_spec.json", "golden.npz", "golden_frame.npz"
SIGNATURE = "model.sig"
FACTS_KEY = "bev_perception.facts"  # in the metadata of the ONNX: ModelSpec.facts()
# Bytes. A protobuf message ends at 2 GiB; golden files hold a few inputs of a network.
MODEL_LIMIT, SPEC_LIMIT, FILE_LIMIT = 2**31, 2**20, 2**27
FILES_LIMIT = 64  # of a bundle, however it travels
ARRAY_LIMIT = 2**30


@dataclass(frozen=True)
class Bundle:
    """A verified bundle on disk."""

    path: Path
    spec: ModelSpec

    @property
    def onnx_path(self) -> Path:
        return self.path / MODEL

    def golden(self) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """(inputs, outputs) of the golden sample; arrays named as in the spec. Raises BundleError."""
        arrays = self.arrays(GOLDEN)
        missing = [f"in.{t.name}" for t in self.spec.inputs() if f"in.{t.name}" not in arrays]
        if missing:
            raise BundleError(f"{self.path / GOLDEN}: lacks {', '.join(missing)}; copy the whole bundle again")
        inputs = {t.name: arrays[f"in.{t.name}"] for t in self.spec.inputs()}
        outputs = {t.name: arrays[f"out.{t.name}"] for t in self.spec.outputs() if f"out.{t.name}" in arrays}
        return inputs, outputs

    def arrays(self, name: str) -> dict[str, np.ndarray]:
        """The arrays of one of the bundle's .npz files. Raises BundleError."""
        return _read(self.path, name, lambda path: read_arrays(path, FILE_LIMIT, ARRAY_LIMIT))

    def model(self) -> bytes:
        """The ONNX with all its weights inside, verified again, so that what runs is exactly what was verified.

        Raises BundleError.
        """
        data = _read(self.path, MODEL, lambda path: read_bytes(path, MODEL_LIMIT))
        _check_hash(self.path, MODEL, data, self.spec.onnx_sha256)
        files: dict[str, bytes] = {}

        def part(name: str, offset: int, length: int | None) -> bytes:
            if name not in self.spec.weights_sha256:
                raise ValueError(
                    f"it keeps weights in {name!r}, which the spec's `weights_sha256` does not name: put the file into "
                    "the bundle and upgrade it, or save the ONNX with all its weights inside"
                )
            if name not in files:
                files[name] = _read(self.path, name, lambda path: read_bytes(path, MODEL_LIMIT))
                _check_hash(self.path, name, files[name], self.spec.weights_sha256[name])
            end = len(files[name]) if length is None else offset + length
            if not 0 <= offset <= end <= len(files[name]):
                raise ValueError(f"weights at {offset} to {end} of {name!r}, which has {len(files[name])} bytes")
            return files[name][offset:end]

        try:
            return with_weights_inside(data, part)
        except BundleError:
            raise
        except ValueError as error:
            raise BundleError(f"{self.onnx_path}: {error}") from error


def load_bundle(path: str | Path) -> Bundle:
    """Read and verify a bundle: all files there, spec valid, ONNX hash as the spec says, and its facts as the ONNX
    carries them. Raises BundleError naming what differs."""
    bundle, model = _open(Path(path))
    mend = f"upgrade the bundle (ros2 run bev_perception upgrade_bundle {bundle.path} NEW) or export it again"
    try:
        stated = read_metadata(model).get(FACTS_KEY)
    except ValueError as error:
        raise BundleError(f"{bundle.onnx_path}: {error}; copy the whole bundle again") from error
    if stated is None:
        raise BundleError(f"bundle {bundle.path}: {MODEL} does not carry its facts, as older bundles do not; {mend}")
    differing = differing_facts(parse_facts(stated, f"{bundle.onnx_path}, facts in its metadata"), bundle.spec)
    if differing:
        raise BundleError(
            f"bundle {bundle.path}: {SPEC} was altered or belongs to another model: {'; '.join(differing)}. Copy the "
            "whole bundle again; thresholds are changed by parameters, other facts by another export"
        )
    if not (bundle.path / GOLDEN_FRAME).is_file():
        raise BundleError(f"bundle {bundle.path}: {GOLDEN_FRAME} is missing, as in older bundles; {mend}")
    return bundle


def open_bundle(path: str | Path) -> Bundle:
    """As `load_bundle`, of a bundle of any age: what the ONNX says of its facts is not looked at, and no golden frame
    need be there. For upgrades, never for a vehicle. Raises BundleError."""
    return _open(Path(path))[0]


def _open(path: Path) -> tuple[Bundle, bytes]:
    """The bundle and its ONNX file."""
    if not path.exists() and aside(path).is_dir():
        raise BundleError(
            f"bundle {path}: is missing, because its replacement was interrupted; the one before lies whole in "
            f"{aside(path)}, rename that to {path}, or replace it again"
        )
    for name in (MODEL, SPEC, GOLDEN):
        if not (path / name).is_file():
            raise BundleError(
                f"bundle {path}: {name} is missing; a bundle is the directory that the export of a checkpoint writes"
            )
    spec = parse_spec(_read(path, SPEC, lambda file: read_text(file, SPEC_LIMIT)), str(path / SPEC))
    model: bytes = _read(path, MODEL, lambda file: read_bytes(file, MODEL_LIMIT))
    _check_hash(path, MODEL, model, spec.onnx_sha256)
    return Bundle(path, spec), model


def bundle_files(path: str | Path) -> list[str]:
    """The names of a bundle's files, sorted. Raises BundleError where it holds a folder, link or device; OSError."""
    files = sorted(Path(path).iterdir())
    for file in files:
        if file.is_symlink() or not file.is_file():
            raise BundleError(f"{file}: is no regular file; a bundle holds files only, take it out or copy it there")
    return [file.name for file in files]


class ModelTable(Protocol):
    """A dataclass of plain data with the sha256 of the ONNX that it is about."""

    @property
    def onnx_sha256(self) -> str: ...


Table = TypeVar("Table", bound=ModelTable)


def read_table(
    bundle: Bundle,
    name: str,
    kind: type[Table],
    check: Callable[[Table], None],
    limit: int,
    mend: str,
    added_later: AddedLater | None = None,
) -> Table | None:
    """The file `name` of the bundle, of at most `limit` bytes; None where there is none.

    check: raises ValueError for a table that does not fit the model. mend: what to do then, for errors. Raises
    BundleError where it is malformed, does not fit, or is about another network.
    """
    path = bundle.path / name
    if not path.exists():
        return None
    try:
        table: Table = from_plain(kind, parse_json(read_text(path, limit)), f"{path}:", added_later)
        if table.onnx_sha256 != bundle.spec.onnx_sha256:
            found, expected = table.onnx_sha256[:12], bundle.spec.onnx_sha256[:12]
            raise ValueError(f"is about the ONNX {found}..., the bundle has {expected}...")
        check(table)
    except (ValueError, OSError) as error:
        raise BundleError(f"{path}: {error}; {mend}") from error
    return table


def write_table(bundle: Bundle, name: str, text: str) -> None:
    """Beside the model; what is there of it is replaced. Raises ValueError for a bundle that is signed."""
    if (bundle.path / SIGNATURE).exists():
        raise ValueError(f"{bundle.path} is signed: write {name} before signing, or into a copy without {SIGNATURE}")
    write_atomic(bundle.path / name, text)


def replace_bundle(new: str | Path, target: str | Path) -> None:
    """Give the bundle `new` the place of `target`, as `replace_folder` does; what is no bundle is left alone.

    Raises ValueError where `target` is a link, a file, or a folder that holds other things; OSError.
    """
    require_replaceable(target)
    replace_folder(new, target)


def require_replaceable(target: str | Path) -> None:
    """Raises ValueError where `replace_bundle` would: to be asked before the work that makes the bundle."""
    target = Path(target)
    if target.is_symlink() or (target.exists() and not target.is_dir()):
        raise ValueError(f"{target} is a link or a file, expected a bundle's folder or nothing; name the folder itself")
    if target.is_dir() and any(target.iterdir()) and not (target / SPEC).is_file():
        raise ValueError(
            f"{target} is there and is no bundle (it holds no {SPEC}), so it is not replaced; name another folder"
        )


def external_files(bundle: Bundle) -> dict[str, str]:
    """Files of the bundle in which its ONNX keeps weights -> their sha256, for an upgrade. Raises BundleError."""
    found: dict[str, str] = {}

    def note(name: str, offset: int, length: int | None) -> bytes:
        if name not in found:
            data = _read(bundle.path, name, lambda path: read_bytes(path, MODEL_LIMIT))
            found[name] = hashlib.sha256(data).hexdigest()
        return b""

    try:
        with_weights_inside(_read(bundle.path, MODEL, lambda path: read_bytes(path, MODEL_LIMIT)), note)
    except BundleError:
        raise
    except ValueError as error:
        raise BundleError(f"{bundle.onnx_path}: {error}; copy the whole bundle again") from error
    return found


def with_facts(model: bytes, spec: ModelSpec) -> bytes:
    """The ONNX that carries the facts of `spec`; weights and graph are the same bytes. Raises ValueError."""
    return with_metadata(model, FACTS_KEY, spec.facts())


def differing_facts(stated: ModelSpec, found: ModelSpec) -> list[str]:
    """One sentence for each fact that differs, named as in model_spec.json."""
    one, other = (_flat(json.loads(spec.facts())) for spec in (stated, found))
    return [
        f"`{name}` is {_short(other.get(name))}, the model was made with {_short(one.get(name))}"
        for name in sorted({*one, *other})
        if one.get(name) != other.get(name)
    ]


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 120 else text[:117] + "..."


def _inside(folder: Path, name: str) -> Path:
    """The file of the bundle. Raises BundleError where a link or its name leads out of the folder."""
    file = (folder / name).resolve()
    if file.parent != folder.resolve() or Path(name).name != name:
        raise BundleError(f"bundle {folder}: {name} leads to {file}; a bundle holds its files itself, copy it there")
    return file


def _read(folder: Path, name: str, read: Callable[[Path], Any]) -> Any:
    """Raises BundleError naming the file, whatever is wrong with it."""
    try:
        return read(_inside(folder, name))
    except BundleError:
        raise
    except (OSError, ValueError, RuntimeError) as error:  # RuntimeError: links in a circle
        raise BundleError(f"{folder / name}: {error}; copy the whole bundle again") from error


def _check_hash(folder: Path, name: str, data: bytes, expected: str) -> None:
    found = hashlib.sha256(data).hexdigest()
    if found != expected:
        raise BundleError(
            f"bundle {folder}: {name} has sha256 {found[:12]}..., the spec expects {expected[:12]}...; "
            "the file was altered or belongs to another bundle, copy the whole bundle again"
        )
