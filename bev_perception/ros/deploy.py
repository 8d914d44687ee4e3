"""Puts another model into the running vehicle, and says how it went: `ros2 run bev_perception deploy BUNDLE`.

Exit status 0 where the model that was asked for is in service at the end (with --rollback: the one before), else 1. The
bundle is a folder on the machine of the node. When this command ends early the deployment goes on; the journal and the
status say how it ends.
"""

from __future__ import annotations

import argparse
import getpass
import os
import socket
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

from bev_perception.deployment import journal
from bev_perception.deployment.folder import JOURNAL
from bev_perception.deployment.gate import TEXT_LIMIT, parse_gate
from bev_perception.deployment.rollout import ALREADY, DONE, ROLLBACK_ASKED, ROLLED_BACK
from bev_perception.files import naming, read_text
from bev_perception.parameters import NODE_NAME, resolve_path

FOLDER = "deploy.folder"
PATIENCE_S = 10.0  # until the node answers
WAKE_S = 0.5
WIDTH = 110  # characters of a line that is printed


class DeployFailed(RuntimeError):
    """The node is not there or does not answer."""


def asked_by() -> str:
    """user@host, for the journal."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"


class Client:
    """The action `deploy` of one node. Raises DeployFailed where the node does not answer.

    node: of this command, inside of bev_perception.ros.start.asking, whose EndedEarly is raised, too.
    """

    def __init__(self, node: Any, node_name: str) -> None:
        from rclpy.action import ActionClient

        from bev_perception.ros.start import answered, comes
        from bev_perception_msgs.action import Deploy

        self._answered, self._comes, self._kind = answered, comes, Deploy
        self._name = f"{node_name}/deploy"
        self._node = node
        self._client = ActionClient(node, Deploy, self._name)
        self._said: tuple[str, str] = ("", "")
        self._said_at = 0.0
        self._server: set[bytes] = set()  # what publishes the action's status, once the goal is taken

    def run(self, **goal: Any) -> Any:
        """The result of a goal; progress is printed."""
        if not self._comes(self._client.server_is_ready, PATIENCE_S):
            raise DeployFailed(f"no action {self._name} after {PATIENCE_S:g} s; is the node running, and named so?")
        sent = self._client.send_goal_async(self._kind.Goal(**goal), self._progress)
        handle = self._wait(sent, PATIENCE_S)
        self._server = self._servers()
        if handle is None or not handle.accepted:
            raise DeployFailed(f"{self._name} did not take the goal")
        return self._wait(handle.get_result_async(), None).result

    def close(self) -> None:
        self._client.destroy()

    def _wait(self, future: Any, seconds: float | None) -> Any:
        """None where the time is over."""
        end = None if seconds is None else time.monotonic() + seconds
        gone_since: float | None = None
        while not future.done() and (end is None or time.monotonic() < end):
            self._answered(self._node, future, WAKE_S)
            gone_since = None if self._is_there() else gone_since or time.monotonic()
            if gone_since is not None and time.monotonic() - gone_since > PATIENCE_S:
                raise DeployFailed("the node is gone; when it is back, --history says how the deployment ended")
        return future.result() if future.done() else None

    def _servers(self) -> set[bytes]:
        """Who publishes the action's status: a node that was started anew is another one."""
        return {
            bytes(info.endpoint_gid) for info in self._node.get_publishers_info_by_topic(f"{self._name}/_action/status")
        }

    def _is_there(self) -> bool:
        return bool(self._server & self._servers()) if self._server else bool(self._client.server_is_ready())

    def _progress(self, message: Any) -> None:
        state = message.feedback.state
        if (state.step, state.event) != self._said:
            self._said = (state.step, state.event)
            print(textwrap.fill(state.event, WIDTH, subsequent_indent="    "), flush=True)
        elif time.monotonic() - self._said_at > 2.0 and state.frames:
            print(
                f"  {state.step}: {state.frames} frames compared (share {state.share:.2f}), agreement "
                f"{state.agreement:.3f}, {state.latency_p50_ms:.1f} ms, p99 {state.latency_p99_ms:.1f}, "
                f"{state.memory_mib:.0f} MiB",
                flush=True,
            )
        else:
            return
        self._said_at = time.monotonic()


def folder_of_node(node_name: str) -> Path:
    """What the node's parameter `deploy.folder` says. Raises DeployFailed."""
    from rcl_interfaces.srv import GetParameters

    from bev_perception.ros.start import EndedEarly, answered, asking, comes

    try:
        with asking(f"deploy_{os.getpid()}") as node:
            client: Any = node.create_client(GetParameters, f"{node_name}/get_parameters")
            if not comes(client.service_is_ready, PATIENCE_S):
                raise DeployFailed(
                    f"{node_name} is not there after {PATIENCE_S:g} s; name the folder: --history FOLDER"
                )
            answer = answered(node, client.call_async(GetParameters.Request(names=[FOLDER])), PATIENCE_S)
    except EndedEarly as error:
        raise DeployFailed(str(error)) from error
    if answer is None or not answer.values or not answer.values[0].string_value:
        raise DeployFailed(f"{node_name} does not say a `{FOLDER}`; it is empty there, or the node does not answer")
    return resolve_path(answer.values[0].string_value)


def show_history(folder: Path) -> int:
    """The journal as a table. Raises DeployFailed where there is no such folder, OSError."""
    if not folder.is_dir():
        raise DeployFailed(
            f"{folder} is no folder of this machine; --history wants the `deploy.folder` of a node, which holds "
            f"{JOURNAL}, on the node's machine"
        )
    found = journal.read(folder / JOURNAL)
    if found.lines:
        print(journal.table(found.lines))
    for problem in found.problems:
        print(problem, file=sys.stderr)
    if not found.lines:
        why = "no line that can be read" if found.problems else "no lines; nothing was deployed there yet"
        print(f"deploy: {folder / JOURNAL} has {why}", file=sys.stderr)
    return int(not found.lines)


def ask(options: argparse.Namespace) -> int:
    from bev_perception.ros.start import EndedEarly, asking

    gate = _gate_text(options.gate) if options.gate else ""
    goal: dict[str, Any] = dict(watch_s=options.watch, gate=gate, asked_by=options.asked_by or asked_by())
    if options.rollback:
        goal["rollback"] = True
    else:
        goal |= dict(bundle=os.path.abspath(options.bundle), shadow_s=options.shadow)
    try:
        with asking(f"deploy_{os.getpid()}") as node:
            client = Client(node, options.node)
            try:
                result = client.run(**goal)
            finally:
                client.close()
    except EndedEarly as error:
        raise DeployFailed("this command was ended; a deployment that has begun goes on, see --history") from error
    print(f"{result.verdict.replace('_', ' ')}: {result.reason}")
    print(f"in service: {result.in_service_sha256 or 'unknown'}")
    return int(not _as_asked(result.verdict, result.reason, options.rollback))


def _gate_text(path: Path) -> str:
    """What is wrong with it is said at once. Raises ValueError, OSError."""
    with naming(path):
        text = read_text(path, TEXT_LIMIT)
        parse_gate(text)
    return text


def _as_asked(verdict: str, reason: str, rollback: bool) -> bool:
    """Whether the model that was asked for is in service. A deployment that a rollback ended before its switch is
    refused, and what it led back to serves."""
    if rollback:
        return verdict in (DONE, ROLLED_BACK) or reason.startswith(ROLLBACK_ASKED)
    return verdict == DONE or reason.startswith(ALREADY)


def _folder(text: str) -> Path:
    if not text:
        raise argparse.ArgumentTypeError("is empty; name the folder of a bundle")
    return Path(text)


def main(args: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="deploy", description=__doc__)
    parser.add_argument("bundle", nargs="?", type=_folder, help="folder of the bundle, on the node's machine")
    parser.add_argument("--node", default=NODE_NAME, help="name of the node, with its namespace")
    parser.add_argument("--shadow", type=float, default=60.0, metavar="S", help="beside the old one first; 0: not")
    parser.add_argument("--watch", type=float, default=60.0, metavar="S", help="watched after the switch; 0: not")
    parser.add_argument("--gate", type=Path, metavar="YAML", help="what must hold; default: docs/redeploy.md has them")
    parser.add_argument("--asked-by", default="", metavar="NAME", help="for the journal; default: user and host")
    parser.add_argument("--rollback", action="store_true", help="back to the model before, or end what is at work")
    parser.add_argument(
        "--history",
        nargs="?",
        const="",
        metavar="FOLDER",
        help="print the journal of a `deploy.folder`; without a folder that of the node",
    )
    options = parser.parse_args(args)
    if sum((options.bundle is not None, options.rollback, options.history is not None)) != 1:
        parser.error("name a bundle, or --rollback, or --history")
    try:
        if options.history is None:
            return ask(options)
        return show_history(Path(options.history) if options.history else folder_of_node(options.node))
    except (DeployFailed, ValueError, OSError) as error:
        print(f"deploy: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
