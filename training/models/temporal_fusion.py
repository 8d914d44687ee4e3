"""How a BEV map and the memory of earlier frames become one map: five kinds with one interface.

    module = fusion_over(channels, config, spec)
    fused (B, module.out_channels, X, Y), state (B, module.state_channels, X, Y) or None = module(bev, memory)

The vehicle gives `state` back about half a second later, in the ego frame it was made in, with the pose change and the
time between: whatever a kind needs of the past must be in that one map. A cell that the memory did not see (no memory,
or outside the earlier map) never depends on the memory's numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor, nn

from bev_perception.grid import BevGrid
from bev_perception.model_spec import ModelSpec
from training.models.center_head import conv_bn_relu
from training.models.view.warp import warp_bev, warp_corners

if TYPE_CHECKING:
    from training.models.detector import Memory


@dataclass(frozen=True)
class TemporalConfig:
    """kind: a key of TEMPORAL. frames: earlier maps that "history" keeps. out_channels: of "history". alignment: a key
    of ALIGNMENTS, how an earlier map is read: "centres", or "corners" for the released weights of BEVDet4D. unseen:
    what "concat" has where no earlier map was: "zeros", or "current", the current map once more, for the released
    weights of BEVDepth, which begin a scene so."""

    kind: str = "none"
    frames: int = 8
    out_channels: int = 160
    alignment: str = "centres"
    unseen: str = "zeros"

    def __post_init__(self) -> None:
        if self.alignment not in ALIGNMENTS:
            raise ValueError(f"alignment must be one of {sorted(ALIGNMENTS)}, found {self.alignment!r}")
        if self.unseen not in UNSEEN or (self.unseen != "zeros" and self.kind != "concat"):
            raise ValueError(f'unseen must be one of {UNSEEN}, "zeros" but for "concat", found {self.unseen!r}')


UNSEEN = ("zeros", "current")
ALIGNMENTS = {"centres": warp_bev, "corners": warp_corners}


def state_channels(config: TemporalConfig, channels: int) -> int:
    """Channels of the state of `config` over BEV maps of `channels`: what ModelSpec.temporal.state_channels must be."""
    if config.kind not in TEMPORAL:
        raise ValueError(f"temporal kind must be one of {sorted(TEMPORAL)}, found {config.kind!r}")
    return {"none": 0, "history": config.frames * (channels + 2)}.get(config.kind, channels)


class TemporalFusion(Protocol):
    """A module of one of the kinds in TEMPORAL."""

    out_channels: int
    state_channels: int

    def __call__(self, bev: Tensor, memory: Memory | None) -> tuple[Tensor, Tensor | None]: ...


def fusion_over(channels: int, config: TemporalConfig, spec: ModelSpec) -> TemporalFusion:
    """The fusion of BEV maps of `channels`. Raises ValueError when the spec's state is not what it makes."""
    wanted = state_channels(config, channels)
    if spec.temporal.state_channels != wanted:
        raise ValueError(
            f"temporal fusion {config.kind!r} over {channels} channels has a state of {wanted}, the spec says "
            f"{spec.temporal.state_channels}: set spec.temporal.state_channels = {wanted}"
        )
    return TEMPORAL[config.kind](channels, config, spec)


class Alignment(nn.Module):
    """The memory as the current ego frame sees it: (memory) -> warped (B, C, X, Y), seen (B, 1, X, Y), dt (B, 1, X, Y).

    float32. `dt` is the state's age in seconds where it was seen, 0 elsewhere.
    """

    cell_centers: Tensor

    def __init__(self, grid: BevGrid, alignment: str = "centres") -> None:
        super().__init__()
        self.grid, self.warp = grid, ALIGNMENTS[alignment]
        centers = torch.from_numpy(grid.centers().reshape(-1, 2)).float()
        self.register_buffer("cell_centers", centers, persistent=False)

    def forward(self, memory: Memory) -> tuple[Tensor, Tensor, Tensor]:
        warped, seen = self.warp(memory.bev.float(), memory.from_curr, memory.valid, self.grid, self.cell_centers)
        return warped, seen, seen * memory.dt.reshape(-1, 1, 1, 1)


def _aligned(align: Alignment, memory: Memory | None, bev: Tensor, channels: int) -> tuple[Tensor, Tensor, Tensor]:
    """Alignment of the memory in the type of `bev`; zeros where there is no memory at all."""
    if memory is None:
        empty = bev.new_zeros(bev.shape[0], 1, *bev.shape[2:])
        return empty.expand(-1, channels, -1, -1), empty, empty
    if memory.bev.shape[1] != channels:
        raise ValueError(
            f"the memory has {memory.bev.shape[1]} channels, this temporal fusion wants {channels}: "
            "set spec.temporal.state_channels with temporal_fusion.state_channels()"
        )
    warped, seen, dt = align(memory)
    return warped.to(bev.dtype), seen.to(bev.dtype), dt.to(bev.dtype)


class NoFusion(nn.Module):
    """A single frame: no state."""

    state_channels = 0

    def __init__(self, channels: int, config: TemporalConfig, spec: ModelSpec) -> None:
        super().__init__()
        self.out_channels = channels

    def forward(self, bev: Tensor, memory: Memory | None) -> tuple[Tensor, Tensor | None]:
        return bev, None


class ConcatFusion(nn.Module):
    """The current map beside the aligned earlier one (BEVDet4D, Huang & Huang, arXiv 2203.17054).

    Besides the paper's two maps the result has where the earlier one was seen and its age in seconds: on the vehicle
    the interval varies, and a displacement is no velocity without it. The state is the current map.
    """

    def __init__(self, channels: int, config: TemporalConfig, spec: ModelSpec) -> None:
        super().__init__()
        self.state_channels = channels
        self.out_channels = 2 * channels + 2
        self.align, self.filled = Alignment(spec.grid, config.alignment), config.unseen == "current"

    def forward(self, bev: Tensor, memory: Memory | None) -> tuple[Tensor, Tensor | None]:
        earlier, seen, age = _aligned(self.align, memory, bev, bev.shape[1])
        if self.filled:
            earlier = earlier + (1 - seen) * bev
        return torch.cat([bev, earlier, seen, age], dim=1), bev


class GatedFusion(nn.Module):
    """The current map plus, by a gate for every channel and cell, what both maps together say; no wider than one map.

    Not from a paper: the compact student's. The state is the current map.
    """

    def __init__(self, channels: int, config: TemporalConfig, spec: ModelSpec) -> None:
        super().__init__()
        self.state_channels = self.out_channels = channels
        self.align = Alignment(spec.grid, config.alignment)
        self.candidate = conv_bn_relu(2 * channels + 2, channels)
        self.gate = nn.Conv2d(2 * channels + 2, channels, 1)

    def forward(self, bev: Tensor, memory: Memory | None) -> tuple[Tensor, Tensor | None]:
        both = torch.cat([bev, *_aligned(self.align, memory, bev, bev.shape[1])], dim=1)
        return bev + self.gate(both).sigmoid() * self.candidate(both), bev


class HistoryFusion(nn.Module):
    """The last `frames` maps, each warped one step per frame (SOLOFusion, Park et al., ICLR 2023, long-term fusion).

    Every map gets its age in seconds as a channel and one shared 1x1 convolution; all together a second one. The maps
    are kept as they were before fusion. Cells that an earlier map did not see hold the current map with age 0, as the
    paper starts a sequence with copies of its first frame. The state is (frames, channels + 2, X, Y) flattened, newest
    first; the two last channels are how much of the cell the map saw, and its age there.
    """

    def __init__(self, channels: int, config: TemporalConfig, spec: ModelSpec) -> None:
        super().__init__()
        self.channels, self.frames = channels, config.frames
        self.state_channels = config.frames * (channels + 2)
        self.out_channels = config.out_channels
        self.align = Alignment(spec.grid, config.alignment)
        self.with_time = _conv1x1(channels + 1, channels)
        self.join = _conv1x1((config.frames + 1) * channels, config.out_channels)

    def forward(self, bev: Tensor, memory: Memory | None) -> tuple[Tensor, Tensor | None]:
        shape = (bev.shape[0], self.frames, self.channels + 2, *bev.shape[2:])
        warped, _, dt = _aligned(self.align, memory, bev, self.state_channels)
        earlier = warped.reshape(shape)
        maps, seen, age = earlier[:, :, :-2], earlier[:, :, -2:-1], earlier[:, :, -1:]
        age = age + dt[:, None] * seen
        now = torch.cat([bev, torch.zeros_like(dt)], dim=1)[:, None]
        filled = torch.cat([maps + (1 - seen) * bev[:, None], age], dim=2)
        stack = torch.cat([now, filled], dim=1).flatten(0, 1)  # (B * (frames + 1), C + 1, X, Y)
        joined = self.join(self.with_time(stack).reshape(shape[0], -1, *shape[3:]))
        current = torch.cat([bev, torch.ones_like(dt), torch.zeros_like(dt)], dim=1)[:, None]
        state = torch.cat([current, torch.cat([maps, seen, age], dim=2)[:, :-1]], dim=1)
        return joined, state.flatten(1, 2)


class RecurrentFusion(nn.Module):
    """A gated running state (a convolutional GRU: Ballas et al., ICLR 2016) over the aligned earlier state.

    state = u * candidate + (1 - u) * earlier, gates and candidate from both maps. A mean weighted per cell cannot grow,
    however long the drive; with no memory `earlier` is 0. The state is also the result.
    """

    def __init__(self, channels: int, config: TemporalConfig, spec: ModelSpec) -> None:
        super().__init__()
        self.state_channels = self.out_channels = channels
        self.align = Alignment(spec.grid, config.alignment)
        self.gates = nn.Conv2d(2 * channels + 2, 2 * channels, 3, padding=1)
        self.candidate = nn.Sequential(
            nn.Conv2d(2 * channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels), nn.ReLU()
        )

    def forward(self, bev: Tensor, memory: Memory | None) -> tuple[Tensor, Tensor | None]:
        earlier, seen, dt = _aligned(self.align, memory, bev, bev.shape[1])
        update, reset = self.gates(torch.cat([bev, earlier, seen, dt], dim=1)).sigmoid().chunk(2, dim=1)
        candidate = self.candidate(torch.cat([bev, reset * earlier], dim=1))
        state = update * candidate + (1 - update) * earlier
        return state, state


def _conv1x1(in_channels: int, channels: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(in_channels, channels, 1, bias=False), nn.BatchNorm2d(channels), nn.ReLU())


TEMPORAL: dict[str, Callable[[int, TemporalConfig, ModelSpec], TemporalFusion]] = {
    "none": NoFusion,
    "concat": ConcatFusion,
    "gated": GatedFusion,
    "history": HistoryFusion,
    "recurrent": RecurrentFusion,
}
