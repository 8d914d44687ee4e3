"""The radar's receiver: the radar equation, fluctuation, resolution, and random numbers that belong to places."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from training.world.place_noise import normals, uniforms
from training.world.radar_profiles import LISTED
from training.world.receiver import (
    CHILD,
    LOW_RCS,
    NO_MAXIMUM,
    VALID,
    Detections,
    additions,
    false_alarms,
    fluctuate,
    gain,
    least_rcs,
    measured,
    power,
    resolved,
    rms_code,
)
from training.world.scatterers import Body, centres

RECEIVER = LISTED.receiver
# The CAN interface's table of deviations, as its description prints it.
RMS = (
    0.005, 0.006, 0.008, 0.011, 0.014, 0.018, 0.023, 0.029, 0.038, 0.049, 0.063, 0.081, 0.105, 0.135, 0.174, 0.224,
    0.288, 0.371, 0.478, 0.616, 0.794, 1.023, 1.317, 1.697, 2.187, 2.817, 3.630, 4.676, 6.025, 7.762, 10.000,
)  # fmt: skip


def detections(distance, azimuth_deg, rcs, speed=0.0):
    d, a, r, v = np.broadcast_arrays(*(np.asarray(x, dtype=float) for x in (distance, azimuth_deg, rcs, speed)))
    return Detections(d.copy(), np.deg2rad(a), v.copy(), r.copy(), np.full(d.shape, VALID))


def test_numbers_of_places_are_the_same_for_whoever_asks():
    i, j = np.meshgrid(np.arange(-40, 40), np.arange(300), indexing="ij")
    u, n = uniforms(7, i, j), normals(7, i, j)
    assert u.shape == i.shape and 0 < u.min() and u.max() < 1
    assert uniforms(7, i[3, 5], j[3, 5]) == u[3, 5] and uniforms(7, i[::-1], j[::-1])[::-1].tolist() == u.tolist()
    assert (uniforms(8, i, j) != u).all() and len(np.unique(u)) == u.size
    assert u.mean() == pytest.approx(0.5, abs=0.01) and n.mean() == pytest.approx(0, abs=0.03)
    assert u.var() == pytest.approx(1 / 12, abs=0.003) and n.std() == pytest.approx(1, abs=0.02)
    assert abs(np.corrcoef(u[:-1].ravel(), u[1:].ravel())[0, 1]) < 0.02  # neighbours know nothing of each other


def test_power_falls_with_the_fourth_power_of_the_distance():
    d, zero = np.array([10.0, 20.0, 100.0]), np.zeros(3)
    found = power(RECEIVER, zero, d, zero)
    assert found[0] - found[1] == pytest.approx(12.04, abs=0.01) and found[0] - found[2] == pytest.approx(40)


def test_what_is_detected_is_set_by_a_floor_nearby_and_by_noise_far_away():
    d = np.array([5.0, 100.0, 200.0])
    least = least_rcs(RECEIVER, d, np.zeros(3))
    assert least[0] == RECEIVER.floor_dbsm
    assert least[1] == pytest.approx(RECEIVER.noise_dbsm) and least[2] - least[1] == pytest.approx(12.04, abs=0.01)
    aside = np.deg2rad([-45.0])
    assert gain(RECEIVER, aside)[0] == gain(RECEIVER, -aside)[0] == dict(RECEIVER.pattern)[45]
    assert least_rcs(RECEIVER, d[1:2], aside)[0] == pytest.approx(least[1] - dict(RECEIVER.pattern)[45])
    assert least_rcs(RECEIVER, d[1:2], np.zeros(1), 6.0)[0] == pytest.approx(least[1] + 6)


def test_strength_fluctuates_about_its_mean_as_swerling_says():
    """The share above a threshold t times the mean: exp(-t) of Swerling I, (1 + 2 t) exp(-2 t) of III."""
    for k, share in ((1.0, lambda t: np.exp(-t)), (2.0, lambda t: (1 + 2 * t) * np.exp(-2 * t))):
        db = fluctuate(replace(RECEIVER, fluctuation=k), np.full(40000, 3.0), np.random.default_rng(1))
        assert (10 ** ((db - 3) / 10)).mean() == pytest.approx(1, abs=0.02)
        for t in (0.3, 1.0, 2.0):
            assert (db > 3 + 10 * np.log10(t)).mean() == pytest.approx(share(t), abs=0.01)


def test_of_two_in_one_cell_the_stronger_remains():
    cells = RECEIVER.cells
    pairs = {
        "same cell": ((20.0, 20.1), (0.0, 1.0), (5.0, 0.0), (0.0, 0.0), [True, False]),
        "apart in distance": ((20.0, 20.0 + 1.1 * cells[0]), (0.0, 1.0), (5.0, 0.0), (0.0, 0.0), [True, True]),
        "apart in azimuth": ((20.0, 20.1), (0.0, 1.1 * cells[1]), (5.0, 0.0), (0.0, 0.0), [True, True]),
        "apart in speed": ((20.0, 20.1), (0.0, 1.0), (5.0, 0.0), (0.0, 1.1 * cells[3]), [True, True]),
        "lost in the sidelobes": ((20.0, 20.1), (0.0, 20.0), (30.0, 0.0), (0.0, 0.0), [True, False]),
        "the later is stronger": ((20.0, 20.1), (0.0, 1.0), (0.0, 5.0), (0.0, 0.0), [False, True]),
    }
    for name, (d, a, rcs, v, expected) in pairs.items():
        found = detections(d, a, rcs, v)
        assert resolved(RECEIVER, found, found.speed).tolist() == expected, name
    # Aside the beam is wider: what is told apart straight ahead is not at 55 degrees.
    aside = detections((20.0, 20.1), (55.0, 55.0 + 1.1 * cells[1]), (5.0, 0.0))
    assert resolved(RECEIVER, aside, aside.speed).tolist() == [True, False]
    assert resolved(RECEIVER, detections([], [], []), np.zeros(0)).shape == (0,)


def test_additions_lie_about_their_detection_and_are_weaker():
    found = detections(np.full(4000, 30.0), 0.0, 20.0, -3.0)
    more = additions(RECEIVER, found, np.random.default_rng(2))
    lobes, beside = more.at(np.isin(more.state, (CHILD, LOW_RCS))), more.at(more.state == NO_MAXIMUM)
    assert len(lobes) / 4000 == pytest.approx(RECEIVER.side_lobes[0], rel=0.05)
    assert len(beside) / 4000 == pytest.approx(RECEIVER.neighbours[0], rel=0.05)
    assert lobes.rcs.mean() == pytest.approx(20 - RECEIVER.side_lobes[1], abs=0.3)
    assert np.rad2deg(np.abs(lobes.azimuth)).min() >= RECEIVER.side_lobes[3] and (lobes.distance == 30).all()
    assert np.abs(beside.distance - 30).min() >= RECEIVER.neighbours[4]
    assert (more.speed == -3).all() and (lobes.state[lobes.rcs > 3] == CHILD).all()


def test_errors_grow_with_the_angle():
    rng = np.random.default_rng(3)
    sigma = replace(RECEIVER, glint=0.0)
    for angle, degrees in ((0.0, RECEIVER.sigma[1]), (60.0, RECEIVER.sigma[2])):
        found = measured(sigma, detections(np.full(20000, 30.0), angle, 0.0), rng)
        assert np.rad2deg(found.azimuth).std() == pytest.approx(degrees, rel=0.05)
        assert found.distance.std() == pytest.approx(RECEIVER.sigma[0], rel=0.05)


def test_deviations_are_told_in_the_steps_of_the_interface():
    """The table is rounded to thousandths; its steps are 29 % apart."""
    assert rms_code(np.array(RMS) * 0.9).tolist() == list(range(31))
    assert rms_code(np.array(RMS[:-1]) * 1.1).tolist() == list(range(1, 31))
    assert rms_code([0.0, 50.0]).tolist() == [0, 30]


def test_a_receiver_without_an_ascending_pattern_is_refused():
    with pytest.raises(ValueError, match=r"ascend, found \[50, 0\]"):
        replace(RECEIVER, pattern=((50, 0), (0, 0)))


def test_the_pattern_reaches_as_far_as_the_data_sheet_says():
    """What is just seen at 100 m ahead is just seen at 70 m at 45 degrees and at 20 m at 60, within half a decibel."""
    d, a = np.array([100.0, 70.0, 20.0]), np.deg2rad([0.0, 45.0, 60.0])
    deep = replace(RECEIVER, floor_dbsm=-99.0)
    assert least_rcs(deep, d, a) == pytest.approx(np.full(3, RECEIVER.noise_dbsm), abs=0.5)
    assert least_rcs(deep, np.array([250.0]), np.zeros(1)) == pytest.approx(10.0, abs=0.5)  # a car


def test_noise_that_passes_is_weak_and_anywhere():
    rng = np.random.default_rng(4)
    scans = [false_alarms(RECEIVER, 100.0, 1.2, 0.0, rng) for _ in range(400)]
    assert np.mean([len(s) for s in scans]) == pytest.approx(RECEIVER.false_alarms, rel=0.1)
    above = np.concatenate([s.rcs - least_rcs(RECEIVER, s.distance, s.azimuth) for s in scans])
    assert above.min() >= 0 and above.mean() == pytest.approx(1.0, abs=0.2)


def test_centres_of_a_body_lie_within_it_and_face_outwards():
    size = np.array([4.0, 2.0])
    place, side = centres(size, Body(3, 2, 0, 0, 0, 0))
    assert place.shape == side.shape == (10, 2)
    assert np.all(np.abs(place) < size / 2) and np.allclose(np.linalg.norm(side, axis=1), 1)
    assert (np.einsum("ij,ij->i", place, side) > 0).all()
    middle, everywhere = centres(size, Body(0, 0, 0, 0, 0, 0))
    assert middle.tolist() == everywhere.tolist() == [[0, 0]]
