"""ONNX files as protobuf messages: the texts that they carry, and weights that they keep in other files.

No package for ONNX is needed, and what is not asked for is copied byte by byte: a file with another text has the same
weights. Field numbers are those of onnx.proto (https://github.com/onnx/onnx/blob/main/onnx/onnx.proto).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

# Message -> number of a field of it -> the message that this holds; what is not named holds no tensors.
NESTED: dict[str, dict[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "function": {7: "node", 11: "attribute"},
    "training": {1: "graph", 2: "graph"},
}
METADATA, KEY, VALUE = 14, 1, 2  # ModelProto.metadata_props: StringStringEntryProto
RAW_DATA, EXTERNAL_DATA, DATA_LOCATION, EXTERNAL = 9, 13, 14, 1  # of TensorProto
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5  # wire types
DEPTH_LIMIT = 100

# (name of a file, first byte, number of bytes or None for the rest) -> bytes
ReadExternal = Callable[[str, int, "int | None"], bytes]


class Field(NamedTuple):
    """One field of a message: its number, what it holds (a varint's value, or bytes), and all of it as it stood."""

    number: int
    value: int | memoryview
    whole: memoryview


def read_metadata(model: bytes) -> dict[str, str]:
    """The model's metadata_props. Raises ValueError for what is no ONNX file or states a key twice."""
    found: dict[str, str] = {}
    for field in _fields(memoryview(model)):
        if field.number == METADATA:
            key, value = _entry(field)
            if key in found:
                raise ValueError(f"its metadata states `{key}` twice")
            found[key] = value
    return found


def with_metadata(model: bytes, key: str, value: str) -> bytes:
    """The same file with this key in its metadata, instead of what was there under it."""
    kept = [f.whole for f in _fields(memoryview(model)) if f.number != METADATA or _entry(f)[0] != key]
    entry = _bytes_field(KEY, key.encode()) + _bytes_field(VALUE, value.encode())
    return b"".join([*kept, _bytes_field(METADATA, entry)])


def with_weights_inside(model: bytes, read: ReadExternal) -> bytes:
    """The same model with the tensors that it keeps in other files; `read` gives their bytes, or raises.

    Raises ValueError for what is no ONNX file.
    """
    inside = _inlined("model", memoryview(model), read, 0)
    return model if inside is None else inside


def _inlined(kind: str, message: memoryview, read: ReadExternal, depth: int) -> bytes | None:
    """The message with its tensors inside, None where it had them inside already."""
    if depth > DEPTH_LIMIT:
        raise ValueError(f"graphs more than {DEPTH_LIMIT} levels within each other")
    if kind == "tensor":
        return _inlined_tensor(message, read)
    parts: list[bytes | memoryview] = []
    changed = False
    for field in _fields(message):
        inner = None
        if field.number in NESTED[kind] and isinstance(field.value, memoryview):
            inner = _inlined(NESTED[kind][field.number], field.value, read, depth + 1)
        changed |= inner is not None
        parts.append(field.whole if inner is None else _bytes_field(field.number, inner))
    return b"".join(parts) if changed else None


def _inlined_tensor(message: memoryview, read: ReadExternal) -> bytes | None:
    fields = list(_fields(message))
    where = [_entry(f) for f in fields if f.number == EXTERNAL_DATA]
    if not where and not any(f.number == DATA_LOCATION and f.value == EXTERNAL for f in fields):
        return None
    entries = dict(where)
    if "location" not in entries or len(entries) < len(where):
        raise ValueError("a tensor is kept in another file, but not said in which, or said twice")
    try:
        offset = int(entries.get("offset", "0"))
        length = int(entries["length"]) if "length" in entries else None
    except ValueError as error:
        raise ValueError(f"a tensor in {entries['location']!r} has no offset or length that is a number") from error
    kept = [f.whole for f in fields if f.number not in (RAW_DATA, EXTERNAL_DATA, DATA_LOCATION)]
    return b"".join([*kept, _bytes_field(RAW_DATA, read(entries["location"], offset, length))])


def _fields(message: memoryview) -> Iterator[Field]:
    """The fields of a message in their order. Raises ValueError where it is none."""
    position = 0
    while position < len(message):
        start = position
        tag, position = _varint(message, position)
        wire = tag & 7
        value: int | memoryview
        if wire == VARINT:
            value, position = _varint(message, position)
        else:
            if wire == BYTES:
                size, position = _varint(message, position)
            elif wire in (FIXED64, FIXED32):
                size = 8 if wire == FIXED64 else 4
            else:
                raise ValueError(f"no ONNX file: wire type {wire} at byte {start}")
            value, position = message[position : position + size], position + size
        if position > len(message) or tag >> 3 == 0:
            raise ValueError(f"no ONNX file: a field at byte {start} does not fit")
        yield Field(tag >> 3, value, message[start:position])


def _varint(message: memoryview, position: int) -> tuple[int, int]:
    """(value, position behind it)."""
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(message):
            break
        byte = message[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise ValueError("no ONNX file: a number without end")


def _entry(field: Field) -> tuple[str, str]:
    """StringStringEntryProto -> (key, value)."""
    texts = {KEY: "", VALUE: ""}
    if not isinstance(field.value, memoryview):
        raise ValueError("no ONNX file: its metadata is no text")
    for inner in _fields(field.value):
        if inner.number in texts and isinstance(inner.value, memoryview):
            texts[inner.number] = inner.value.tobytes().decode()  # UnicodeDecodeError is a ValueError
    return texts[KEY], texts[VALUE]


def _bytes_field(number: int, data: bytes) -> bytes:
    return _as_varint(number << 3 | BYTES) + _as_varint(len(data)) + data


def _as_varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*encoded, value])
