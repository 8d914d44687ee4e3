"""Sizes at paper size: what the table says of networks whose size is published, and of one counted by hand."""

from __future__ import annotations

import pytest

from training.experiments import bevdepth, bevdet, centerpoint
from training.model_table import measure, row
from training.models.exported import parameters_exported


def test_bevdepth_has_the_published_size() -> None:
    detector, prediction, macs = measure(bevdepth.r50())
    assert parameters_exported(detector) / 1e6 == pytest.approx(76.5, abs=0.3)
    assert prediction.features["neck"].shape == (1, 256, 128, 128)
    # ResNet-50 alone: 4.09 GMACs at 224 x 224.
    assert macs > 6 * 4.09 * 256 * 704 / 224**2


def test_lidar_networks_are_run_with_points() -> None:
    _, prediction, macs = measure(centerpoint.tiny())
    assert prediction.features["neck"].shape[2:] == centerpoint.tiny().spec.grid.shape and macs > 0


def test_a_row_names_state_image_and_maps() -> None:
    assert row("bevdet", bevdet.tiny()).startswith("| bevdet | 64 x 192 | 1.0 | ")
    assert "| - | lift 24x64x64, encoder1 32x32x32" in row("bevdet", bevdet.tiny())
