"""ROS domains of the tests: no two processes of one run of the tests draw the same, nor does one draw it twice soon."""

from __future__ import annotations

import itertools
import os
import random

# Each process of pytest-xdist (gw0, gw1 ...) has domains of its own. Drawn without repetition: a node that lives as
# long as a module's tests must not meet those of single tests.
WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
OURS = range(1 + WORKER % 4, 101, 4)
_DOMAINS = itertools.cycle(random.SystemRandom().sample(OURS, len(OURS)))


def next_domain() -> str:
    """For ROS_DOMAIN_ID."""
    return str(next(_DOMAINS))
