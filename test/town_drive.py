"""What the recording of the fixture `town_bag` is of."""

from __future__ import annotations

from training.world.bag_writer import BagSettings

SETTINGS = BagSettings(seed=901, duration_s=1.0, scale=0.1, image_format="raw", lidar=True)
