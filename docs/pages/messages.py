"""docs/messages.md from bev_perception_msgs (msg/*.msg, action/*.action) and the table of outputs."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from bev_perception.messages import DIAGNOSTICS_TOPIC, PUBLISHERS, STATUS_TOPIC
from docs.pages.markdown import code, join, table, written_by

MSG = Path(__file__).resolve().parents[2] / "bev_perception_msgs" / "msg"
ACTION = MSG.parent / "action" / "Deploy.action"
HEAD = """\
The node says what it sees on `perception/detections` and how well it is on `perception/status`. Topics are relative:
they move with the node's namespace, except `/diagnostics`. All are reliable with a queue of ten.

Boxes, poses and velocities are in `base_link` at the frame's stamp, in SI units (REP-103, REP-105). A velocity is over
ground: the motion of the own vehicle is not in it."""
OUTPUTS = """\
Which of these are published is the parameter `publish.outputs` ([parameters.md](parameters.md)). `detections` goes out
for every frame, the others are built only while somebody listens. An output whose package is not installed fails
`configure` with its name. Status and diagnostics are published in every lifecycle state, on a timer of the wall clock,
also when sensor data or the simulated clock stop. Their reasons are explained in [reasons.md](reasons.md)."""
DEPLOY = """\
`/bev_perception/deploy` puts another model into service while the node runs ([redeploy.md](redeploy.md)). It moves with
the node's name and namespace. A goal is always accepted, and one that cannot begin is answered with a reason.
`/bev_perception/rollback` (std_srvs/Trigger) begins what a goal with `rollback` does, for clients without actions."""
# Topic, message: published whatever `publish.outputs` says.
ALWAYS = {
    STATUS_TOPIC: "bev_perception_msgs/PerceptionStatus: state of sensors and node",
    DIAGNOSTICS_TOPIC: "diagnostic_msgs/DiagnosticArray: the same for the usual tools",
}
# In the order in which a reader wants them.
ORDER = (
    "Detection3DArray", "Detection3D", "SensorInput", "PerceptionStatus", "SensorState", "HealthState", "Counter",
    "LatencyStat", "Deployment",
)  # fmt: skip


@dataclass
class Block:
    """Fields or constants that stand together: (type, name, value of a constant, comment beside it), and the comment
    above them."""

    text: str
    rows: list[tuple[str, str, str, str]]


@dataclass
class Message:
    """A .msg file: the text at its top, and its blocks in order."""

    text: str = ""
    constants: list[Block] = field(default_factory=list)
    fields: list[Block] = field(default_factory=list)


def page() -> str:
    files = {path.stem: parse_msg(path.read_text(), path.name) for path in MSG.glob("*.msg")}
    if set(files) != set(ORDER):
        raise ValueError(f"{MSG} has {sorted(files)}, ORDER names {sorted(ORDER)}")
    outputs = [
        (code(name), code(output.topic), first_sentence(output.convert.__doc__ or ""))
        for name, output in PUBLISHERS.items()
    ]
    outputs += [("always", code(topic), text) for topic, text in ALWAYS.items()]
    head = ("output", "topic", "message")
    parts = [part for name in ORDER for part in section(name, files[name])]
    parts += ["## The action Deploy", DEPLOY]
    for name, text in zip(("Goal", "Result", "Feedback"), ACTION.read_text().split("---\n"), strict=True):
        parts += [f"### {name}", *section("", parse_msg(text, ACTION.name))[1:]]
    source = "bev_perception_msgs/msg, PUBLISHERS and docs/pages/messages.py"
    return join(*("# Messages", written_by(source), HEAD, "## Outputs", table(head, outputs), OUTPUTS), *parts)


def first_sentence(docstring: str) -> str:
    """Up to its full stop, without the reference that follows a semicolon; in one line."""
    return re.split(r"[.;](?:\s|$)", " ".join(docstring.split()), maxsplit=1)[0]


def section(name: str, message: Message) -> list[str]:
    parts = [f"## {name}", message.text]
    for block in message.constants:
        rows = [(code(constant), value, beside) for _, constant, value, beside in block.rows]
        parts += [block.text, table(("constant", "value", "meaning"), rows)]
    return [*parts, table(("fields", "type", "meaning"), map(cells, message.fields))]


def cells(block: Block) -> tuple[str, str, str]:
    """Names, types without repetition, meaning of fields that share a comment."""
    kinds, names, _, beside = zip(*block.rows)
    return ", ".join(map(code, names)), ", ".join(map(code, dict.fromkeys(kinds))), block.text or " ".join(beside)


def parse_msg(source: str, where: str) -> Message:
    """A comment belongs to what stands below it up to the next blank line, that at the top to the message.

    Raises ValueError for fields that have no comment above or beside them.
    """
    message = Message()
    for block in re.split(r"\n\s*\n", source.strip()):
        lines = block.splitlines()
        comments = (line[1:].strip() or "\n\n" for line in lines if line.startswith("#"))
        text = " ".join(comments).replace(" \n\n ", "\n\n")
        rows = [definition(line) for line in lines if not line.startswith("#")]
        if not rows:
            message.text = join(message.text, text).strip()
            continue
        silent = [name for _, name, _, beside in rows if not (text or beside)]
        if silent:
            raise ValueError(f"{where}: {', '.join(silent)} has no comment above or beside it")
        (message.constants if rows[0][2] else message.fields).append(Block(text, rows))
    return message


def definition(line: str) -> tuple[str, str, str, str]:
    """`uint8 OK=0  # why` -> uint8, OK, 0, why."""
    code_part, _, beside = line.partition("#")
    kind, name, *value = re.split(r"\s*=\s*|\s+", code_part.strip(), maxsplit=2)
    return kind, name, value[0] if value else "", beside.strip()
