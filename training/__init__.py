"""Offline training of the BEV perception student: data, models, export, evaluation."""

import os

from bev_perception.missing import tell_missing_packages

# Before torch is imported. Its threads wait for each other by spinning, 300,000 turns before they sleep: where two
# programs share the cores, one's threads spin in the time that the other's need, and both take up to forty times as
# long (docs/lab_notes/training_cost.md). Who sets one of the two variables decides.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")

tell_missing_packages()
