"""Takes a lifecycle node through transitions and returns: for scripts, where launch is not at hand.

python -m bev_perception.ros.bring_up configure activate --node bev_perception
"""

from __future__ import annotations

import argparse
import sys
import time
from typing import Any

from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rclpy.node import Node

from bev_perception.parameters import NODE_NAME
from bev_perception.ros.start import EndedEarly, answered, asking, comes

TRANSITIONS = {
    "configure": Transition.TRANSITION_CONFIGURE,
    "activate": Transition.TRANSITION_ACTIVATE,
    "deactivate": Transition.TRANSITION_DEACTIVATE,
    "cleanup": Transition.TRANSITION_CLEANUP,
}


class BringUpError(RuntimeError):
    """The node is not there or refused a transition; its own log says why."""


def change_state(node: Node, target: str, transitions: list[str], timeout_s: float) -> None:
    """Ask `target` for each transition in turn. Raises BringUpError, EndedEarly."""
    client: Any = node.create_client(ChangeState, f"{target}/change_state")
    deadline = time.monotonic() + timeout_s
    try:
        if not comes(client.service_is_ready, timeout_s):
            raise BringUpError(f"{target} offers no change_state service after {timeout_s:.0f} s; is it running?")
        for name in transitions:
            request = ChangeState.Request(transition=Transition(id=TRANSITIONS[name]))
            future = client.call_async(request)
            response = answered(node, future, max(0.1, deadline - time.monotonic()))
            if response is None:
                raise BringUpError(f"{target} did not answer to `{name}` within {timeout_s:.0f} s")
            if not response.success:
                raise BringUpError(f"{target} could not {name}; its log says why")
    finally:
        node.destroy_client(client)


def main(args: list[str] | None = None) -> int:
    """Exit status 0 when every transition succeeded."""
    parser = argparse.ArgumentParser(prog="bring_up", description=__doc__.split("\n", 1)[0])
    parser.add_argument("transitions", nargs="+", choices=sorted(TRANSITIONS))
    parser.add_argument("--node", default=NODE_NAME)
    parser.add_argument("--timeout", type=float, default=60.0, metavar="S")
    options = parser.parse_args(args)
    try:
        with asking("bring_up") as node:
            change_state(node, options.node, options.transitions, options.timeout)
    except (BringUpError, EndedEarly) as error:
        print(f"bring_up: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
