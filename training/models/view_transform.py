"""Moved to training.models.view."""

from training.models.view.column_lift import ColumnLift
from training.models.view.depth_bins import DepthBins
from training.models.view.warp import OUTSIDE, warp_bev

__all__ = ["OUTSIDE", "ColumnLift", "DepthBins", "warp_bev"]
