"""Sizes at paper size: what the table says of networks whose size is published, and of one counted by hand."""

from __future__ import annotations

import dataclasses
import math

import pytest

pytest.importorskip("torch", reason="needs torch")


from bev_perception.model_spec import BOX_CHANNELS
from training.experiments import bevdepth, bevdet, centerpoint, lidar_transformer
from training.model_table import measure, row
from training.models.exported import parameters_exported
from training.run import Run


def test_bevdepth_has_the_published_size() -> None:
    detector, prediction, macs = measure(bevdepth.r50())
    assert parameters_exported(detector) / 1e6 == pytest.approx(76.5, abs=0.3)
    assert prediction.features["neck"].shape == (1, 256, 128, 128)
    # ResNet-50 alone: 4.09 GMACs at 224 x 224.
    assert macs > 6 * 4.09 * 256 * 704 / 224**2


@pytest.mark.parametrize("run", [centerpoint.tiny(), lidar_transformer.tiny()], ids=lambda run: run.model)
def test_lidar_networks_are_run_with_points(run: Run) -> None:
    _, prediction, macs = measure(run)
    assert prediction.features["neck"].shape[2:] == run.spec.grid.shape and macs > 0


def test_a_layer_of_a_decoder_is_counted_as_by_hand() -> None:
    run = lidar_transformer.tiny()
    head = run.config.head
    more = dataclasses.replace(run.config, head=dataclasses.replace(head, layers=head.layers + 1))
    macs = 1e9 * (measure(dataclasses.replace(run, config=more))[2] - measure(run)[2])
    q, c, places = head.queries, head.channels, head.heads * head.points
    between_queries = 4 * q * c * c + 2 * q * q * c  # projections; queries by keys, weights by values
    into_the_map = math.prod(run.spec.grid.shape) * c * c + q * c * (2 + 1) * places + q * c * c
    branches = 2 * (2 * q * c * c) + q * c * (len(run.spec.classes) + len(BOX_CHANNELS))
    assert macs == pytest.approx(between_queries + into_the_map + 2 * q * c * head.hidden + branches, rel=1e-9)


def test_a_row_names_state_image_and_maps() -> None:
    assert row("bevdet", bevdet.tiny()).startswith("| bevdet | 64 x 192 | 1.0 | ")
    assert "| - | lift 24x64x64, encoder1 32x32x32" in row("bevdet", bevdet.tiny())
