"""The ROS 2 side: the lifecycle node, playing and recording bags, measuring. Modules import ROS where they use it."""

import os

# Before numpy is imported: a matrix product that OpenBLAS shares among threads leaves them waiting for the next one in
# a loop, which takes a core from the engine. Products here are small.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
