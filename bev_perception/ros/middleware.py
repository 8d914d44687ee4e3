"""What is below the node: shared memory, and whether its name is its own. Looked at while it runs, said once each."""

from __future__ import annotations

import os
import time

from rclpy.node import Node

from bev_perception.ros.shared_memory import Problem, find_problems

LOOK_PERIOD_S = 2.0


class MiddlewareWatch:
    """Looks at most every LOOK_PERIOD_S, however often it is asked; a new problem goes to the log."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._looked_at_s = -LOOK_PERIOD_S
        self._problems: tuple[Problem, ...] = ()

    def problems(self) -> tuple[Problem, ...]:
        """What is wrong now."""
        now_s = time.monotonic()
        if now_s - self._looked_at_s < LOOK_PERIOD_S:
            return self._problems
        self._looked_at_s = now_s
        known = {problem.reason for problem in self._problems}
        self._problems = (*find_problems(os.environ), *self._name_problems())
        for problem in self._problems:
            if problem.reason not in known:
                self._node.get_logger().error(f"{problem.reason}: {problem.detail}")
        return self._problems

    def _name_problems(self) -> tuple[Problem, ...]:
        """No reason to refuse a transition: for 20 s a node that died is listed beside the one started in its place."""
        name = self._node.get_fully_qualified_name()
        listed = [f"{ns.rstrip('/')}/{n}" for n, ns in self._node.get_node_names_and_namespaces()]
        if listed.count(name) < 2:
            return ()
        found = f"{listed.count(name)} nodes are called {name} and publish on the same topics"
        mend = "stop one, or start it with another namespace; one that died stays listed for 20 s"
        return (Problem("node_name_taken", f"{found}; {mend}"),)
