"""Temporal fusion: alignment against whole-cell shifts and turns, long histories against direct warps, empty memory."""

from __future__ import annotations

import dataclasses

import pytest

pytest.importorskip("torch", reason="needs torch")

import torch
from tiny_students import NAMES, RUNS

from bev_perception.grid import BevGrid
from bev_perception.model_spec import CLASSES, ModelSpec, TemporalSpec
from training.bundling.pattern import pattern_inputs
from training.models.detector import Memory, empty_memory
from training.models.temporal_fusion import TEMPORAL, Alignment, TemporalConfig, fusion_over, state_channels
from training.run import build_detector

GRID = BevGrid(-8.0, 8.0, -6.4, 6.4, 0.8)  # 20 x 16 cells: X and Y must not be confused
CHANNELS = 3
CONFIGS = {kind: TemporalConfig(kind, frames=3, out_channels=5) for kind in TEMPORAL}


def spec_for(config: TemporalConfig) -> ModelSpec:
    scores = dict.fromkeys(CLASSES, 0.1)
    temporal = TemporalSpec(state_channels=state_channels(config, CHANNELS))
    return ModelSpec("t", ("a",), (), scores, scores, grid=GRID, temporal=temporal)


def fusion(kind: str) -> torch.nn.Module:
    torch.manual_seed(0)
    return fusion_over(CHANNELS, CONFIGS[kind], spec_for(CONFIGS[kind])).eval()


def motion(x: float = 0.0, y: float = 0.0, turn: float = 0.0) -> torch.Tensor:
    """prev_from_curr of an ego that drove (x, y) and turned left by `turn`, in its earlier frame."""
    c, s = torch.cos(torch.tensor(turn)), torch.sin(torch.tensor(turn))
    pose = torch.eye(4)
    pose[:2, :2] = torch.tensor([[c, -s], [s, c]])
    pose[:2, 3] = torch.tensor([x, y])
    return pose[None]


def memory(state: torch.Tensor, pose: torch.Tensor, dt: float = 0.5, valid: float = 1.0) -> Memory:
    flag = torch.full((state.shape[0], 1), valid)
    return Memory(state, pose.expand(state.shape[0], 4, 4), flag, torch.full_like(flag, dt))


def shifted(bev: torch.Tensor, cells: int) -> torch.Tensor:
    """The map as an ego `cells` further ahead sees it: zeros come in at the far end."""
    return torch.nn.functional.pad(bev, (0, 0, -cells, cells))


def test_alignment_equals_a_loop_over_cells() -> None:
    torch.manual_seed(1)
    bev, pose = torch.randn(1, 2, *GRID.shape), motion(1.1, -0.7, 0.4)
    warped, seen, dt = Alignment(GRID)(memory(bev, pose, 0.7))
    inside = 0
    for ix in range(GRID.shape[0]):
        for iy in range(GRID.shape[1]):
            x, y = GRID.centers()[ix, iy]
            px, py = (pose[0].double() @ torch.tensor([x, y, 0, 1], dtype=torch.float64))[:2].tolist()
            fx, fy = (px - GRID.x_min) / GRID.step - 0.5, (py - GRID.y_min) / GRID.step - 0.5
            expected = torch.zeros(2)
            is_inside = GRID.x_min < px < GRID.x_max and GRID.y_min < py < GRID.y_max
            for jx in (int(fx // 1), int(fx // 1) + 1):
                for jy in (int(fy // 1), int(fy // 1) + 1):
                    if is_inside and 0 <= jx < GRID.shape[0] and 0 <= jy < GRID.shape[1]:
                        expected = expected + bev[0, :, jx, jy] * (1 - abs(fx - jx)) * (1 - abs(fy - jy))
            inside += is_inside
            torch.testing.assert_close(warped[0, :, ix, iy], expected, atol=1e-4, rtol=1e-4)
            assert seen[0, 0, ix, iy] == float(is_inside)
            assert float(dt[0, 0, ix, iy]) == pytest.approx(0.7 * is_inside)
    assert 100 < inside < 320


@pytest.mark.parametrize("kind", list(TEMPORAL))
def test_channels_are_as_stated(kind: str) -> None:
    module, spec = fusion(kind), spec_for(CONFIGS[kind])
    bev = torch.randn(2, CHANNELS, *GRID.shape)
    fused, state = module(bev, empty_memory(spec, bev, 2))
    assert fused.shape == (2, module.out_channels, *GRID.shape)
    assert module.state_channels == state_channels(CONFIGS[kind], CHANNELS) == spec.temporal.state_channels
    assert (state is None) == (kind == "none")
    if state is not None:
        assert state.shape == (2, module.state_channels, *GRID.shape)


@pytest.mark.parametrize("kind", ["concat", "gated", "history", "recurrent"])
def test_an_invalid_memory_is_no_memory_and_a_valid_one_matters(kind: str) -> None:
    module = fusion(kind)
    bev, pose = torch.randn(2, CHANNELS, *GRID.shape), motion(0.5, 0.2, 0.1)
    state = torch.randn(2, module.state_channels, *GRID.shape).abs() * 100
    nothing, fresh = module(bev, None)
    for found, expected in zip(module(bev, memory(state, pose, 0.9, valid=0.0)), (nothing, fresh), strict=True):
        torch.testing.assert_close(found, expected)
    assert not torch.allclose(module(bev, memory(state, pose, 0.9))[0], nothing)


@pytest.mark.parametrize("kind", ["concat", "gated", "history", "recurrent"])
def test_the_second_item_of_a_batch_does_not_know_the_first(kind: str) -> None:
    module = fusion(kind)
    bev, state = torch.randn(2, CHANNELS, *GRID.shape), torch.randn(2, module.state_channels, *GRID.shape)
    both = Memory(
        state, torch.cat([motion(1.6), motion(0.3, 0.2, 0.3)]), torch.ones(2, 1), torch.tensor([[0.2], [1.0]])
    )
    alone = Memory(*(field[1:] for field in both))
    for found, expected in zip(module(bev, both), module(bev[1:], alone), strict=True):
        torch.testing.assert_close(found[1:], expected, atol=1e-5, rtol=1e-5)


def test_concat_gives_the_earlier_map_where_it_now_lies() -> None:
    first, second = torch.randn(2, 1, CHANNELS, *GRID.shape)
    module = fusion("concat")
    _, state = module(first, None)
    fused, state = module(second, memory(state, motion(1.6), 0.4))
    current, earlier, seen, age = fused.split([CHANNELS, CHANNELS, 1, 1], dim=1)
    torch.testing.assert_close(current, second)
    torch.testing.assert_close(earlier, shifted(first, 2), atol=1e-4, rtol=1e-4)
    assert seen[0, 0, :-2].all() and not seen[0, 0, -2:].any()
    torch.testing.assert_close(age, 0.4 * seen)
    torch.testing.assert_close(state, second)


def test_a_chain_of_history_steps_equals_direct_warps() -> None:
    """Whole-cell moves: warping step by step loses nothing, so each kept map is where one direct warp puts it."""
    torch.manual_seed(2)
    module = fusion("history")
    maps, moves, gaps = torch.randn(5, 1, CHANNELS, *GRID.shape), [0, 1, 2, -1, 2], [0.0, 0.5, 0.3, 0.6, 0.4]
    state = None
    for bev, cells, gap in zip(maps, moves, gaps, strict=True):
        _, state = module(bev, None if state is None else memory(state, motion(GRID.step * cells), gap))
    assert state is not None
    kept = state.reshape(1, 3, CHANNELS + 2, *GRID.shape)  # newest first, in the frame of the newest
    for k in range(3):
        back = range(5 - k, 5)  # moves since map 4 - k
        expected, seen = maps[4 - k], torch.ones(1, 1, *GRID.shape)
        for i in back:  # zeros that came in stay zeros: cells are lost for good at the edge
            expected, seen = shifted(expected, moves[i]), shifted(seen, moves[i])
        torch.testing.assert_close(kept[:, k, :CHANNELS], expected, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(kept[:, k, CHANNELS:-1], seen, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(kept[:, k, -1:], seen * sum(gaps[i] for i in back), atol=1e-4, rtol=1e-4)


def test_history_has_forgotten_what_is_older_than_it_keeps() -> None:
    module = fusion("history")
    maps = torch.randn(6, 1, CHANNELS, *GRID.shape)

    def run(first: torch.Tensor, steps: int) -> torch.Tensor:
        fused, state = module(first, None)
        for bev in maps[1 : steps + 1]:
            fused, state = module(bev, memory(state, motion(0.8)))
        return fused

    assert not torch.allclose(run(maps[0], 3), run(maps[0] + 1, 3)), "three earlier maps are kept"
    torch.testing.assert_close(run(maps[0], 4), run(maps[0] + 1, 4))


def test_a_history_of_one_standing_scene_is_as_good_as_copies_of_it() -> None:
    """Standing still, with no time passing, the filled history of a first frame is what later frames see."""
    module, bev = fusion("history"), torch.randn(1, CHANNELS, *GRID.shape)
    first, state = module(bev, None)
    for _ in range(4):
        fused, state = module(bev, memory(state, motion(), dt=0.0))
    torch.testing.assert_close(fused, first, atol=1e-5, rtol=1e-5)


def test_recurrent_state_is_a_mean_and_reaches_far_back() -> None:
    module, bev, candidates = fusion("recurrent"), torch.randn(1, CHANNELS, *GRID.shape), []
    module.candidate.register_forward_hook(lambda _, __, output: candidates.append(output))
    with torch.no_grad():
        _, state = module(bev, None)
        other = state + 5.0
        for _ in range(6):
            earlier = state
            _, state = module(bev, memory(earlier, motion()))
            low, high = torch.minimum(earlier, candidates[-1]), torch.maximum(earlier, candidates[-1])
            assert bool(((state >= low - 1e-4) & (state <= high + 1e-4)).all())
            _, other = module(bev, memory(other, motion()))
    assert float((other - state).abs().max()) > 1e-3, "six frames later the first one still matters"


def test_an_object_that_stands_is_found_at_one_place_by_a_moving_ego() -> None:
    """A static scene seen from two poses: after alignment, both maps agree, turn included."""
    world = torch.tensor([3.2, 1.7])

    def seen_from(pose: torch.Tensor) -> torch.Tensor:
        p = (torch.linalg.inv(pose[0]) @ torch.tensor([*world.tolist(), 0.0, 1.0]))[:2]
        centers = torch.from_numpy(GRID.centers()).float()
        return torch.exp(-((centers - p) ** 2).sum(-1) / 4.0)[None, None].repeat(1, CHANNELS, 1, 1)

    first, second = motion(0.3, 0.1, 0.05), motion(1.5, 0.4, 0.35)
    module = fusion("concat")
    _, state = module(seen_from(first), None)
    fused, _ = module(seen_from(second), memory(state, torch.linalg.inv(first[0])[None] @ second))
    current, earlier, seen, _ = fused.split([CHANNELS, CHANNELS, 1, 1], dim=1)
    assert float(((current - earlier).abs() * seen)[:, :, 1:-1, 1:-1].max()) < 0.05
    unaligned, _ = module(seen_from(second), memory(state, motion()))
    assert float((unaligned[:, :CHANNELS] - unaligned[:, CHANNELS : 2 * CHANNELS]).abs().max()) > 0.3


def test_a_memory_of_another_kind_is_refused() -> None:
    module, bev = fusion("history"), torch.randn(1, CHANNELS, *GRID.shape)
    with pytest.raises(ValueError, match=r"7 channels.*wants 15"):
        module(bev, memory(torch.zeros(1, 7, *GRID.shape), motion()))
    with pytest.raises(ValueError, match="concat"):
        state_channels(TemporalConfig("average"), 4)


@pytest.mark.parametrize(
    "config", [TemporalConfig("history", 8, 24), TemporalConfig("recurrent")], ids=lambda c: c.kind
)
@pytest.mark.parametrize("name", NAMES)
def test_every_student_takes_a_long_memory(name: str, config: TemporalConfig) -> None:
    """Two frames: the state of the first has the size that the spec names, matters to the second, and teaches."""
    run = RUNS[name]
    changed = dataclasses.replace(run, config=dataclasses.replace(run.config, temporal=config))
    grid = BevGrid(-12.8, 12.8, -12.8, 12.8, 0.8)
    spec = dataclasses.replace(run.spec, cameras=run.spec.cameras[:2], radars=run.spec.radars[:1], grid=grid)
    with pytest.raises(ValueError, match=r"set spec\.temporal\.state_channels = \d+") as wrong:
        build_detector(dataclasses.replace(changed, spec=with_state(spec, 7)))
    spec = with_state(spec, int(str(wrong.value).rsplit(" ", 1)[1]))
    torch.manual_seed(0)
    student = build_detector(dataclasses.replace(changed, spec=spec)).train()
    inputs = {n: torch.from_numpy(a)[None] for n, a in pattern_inputs(spec).items()}
    flag = torch.ones(1, 1)
    with torch.no_grad():
        state = student.encode(inputs, empty_memory(spec, inputs["prev_bev"], 1))
    assert state.shape == (1, spec.temporal.state_channels, *grid.shape)
    found = student(inputs, Memory(state, motion(0.8), flag, 0.5 * flag))
    found.regression.square().sum().backward()
    assert all(p.grad is not None for n, p in student.named_parameters() if "temporal." in n or "fusion." in n)
    with torch.no_grad():
        student.eval()
        first, second = (student(inputs, Memory(state, motion(x), flag, 0.5 * flag)).heatmap for x in (0.8, 4.0))
    assert not torch.equal(first, second)


def with_state(spec: ModelSpec, channels: int) -> ModelSpec:
    return dataclasses.replace(spec, temporal=dataclasses.replace(spec.temporal, state_channels=channels))
