"""How far a candidate may be off, said by the network itself at next to no cost: a small head at the candidates alone.

It reads what the detection head has just before its answers. Of that few channels are made, since engines keep maps in
blocks of channels and would have to rearrange whatever is looked up; all else happens at the K cells that leave the
network. By default nothing flows back from it: body and boxes are those of the network without.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bev_perception.grid import BevGrid
from bev_perception.model_spec import BOX_CHANNELS, SPREAD_CHANNELS, SPREAD_PARTS
from training.models.detector import Candidates, Detector, Prediction

FORMS = ("gaussian", "laplace", "mixture")
READS = "spread."  # what names of Prediction.aux begin with that the head reads
LOG_STD_LIMITS = (-5.0, 3.5)  # 7 mm to 33 m
BEGINNING = -1.0  # of the logarithm of a deviation
LEAST_VARIANCE = 1e-6
RANGE_M, SPEED_MPS, SURE = 50.0, 10.0, 1e-5  # what distances and velocities are divided by; see `_facts`


@dataclass(frozen=True)
class SpreadConfig:
    """form: of an error's distribution, one of FORMS. squeezed: channels that are looked up at a candidate, hidden:
    channels of the layers behind; components: of a mixture.

    beta: of beta-NLL (Seitzer et al., ICLR 2022), which lets a mean that learns from the likelihood learn where the
    variance is large; detach: neither features nor boxes learn from it. alone: only this head learns; all else keeps
    its weights and its statistics.
    """

    form: str = "gaussian"
    squeezed: int = 16
    hidden: int = 64
    components: int = 4
    beta: float = 0.5
    detach: bool = True
    alone: bool = False
    weight: float = 0.1

    def __post_init__(self) -> None:
        if self.form not in FORMS:
            raise ValueError(f"spread.form must be one of {FORMS}, found {self.form!r}")
        if min(self.squeezed, self.hidden) < 1 or self.components < 2 or not 0 <= self.beta <= 1 or self.weight <= 0:
            raise ValueError(
                f"spread: squeezed and hidden 1 or more, components 2, beta 0 to 1, weight above 0; found {self}"
            )

    @property
    def parts(self) -> tuple[str, ...]:
        """What ModelSpec.spread is of a network with such a head."""
        return SPREAD_PARTS if self.form == "mixture" else SPREAD_PARTS[:1]


class Spread(NamedTuple):
    """Of N candidates in B frames: log_std (B, N, K, SPREAD_CHANNELS) of K components about their means. offsets and
    log_weights of the same shape: where a component's mean lies from the box's channel, and what it weighs; both zero
    where there is one. The means of all, weighed, are the box's channel."""

    log_std: Tensor
    offsets: Tensor
    log_weights: Tensor

    def parts(self) -> Tensor:
        """(B, N, P, SPREAD_CHANNELS) logarithms of the deviations: of one component its own; of more the aleatoric
        part, the mean of the variances, and the epistemic part, the variance of the means (Choi et al., ICCV 2021)."""
        if self.log_std.shape[2] == 1:
            return self.log_std
        weights = self.log_weights.exp()
        aleatoric = (weights * (2 * self.log_std).exp()).sum(dim=2)
        epistemic = (weights * self.offsets.square()).sum(dim=2)
        return 0.5 * torch.stack([aleatoric, epistemic], dim=2).clamp(min=LEAST_VARIANCE).log()


class SpreadHead(nn.Module):
    """reads: the channels of each map that it reads."""

    def __init__(self, reads: tuple[int, ...], classes: int, config: SpreadConfig) -> None:
        super().__init__()
        self.config = config
        self.components = config.components if config.form == "mixture" else 1
        self.squeezes = nn.ModuleList([nn.Conv2d(channels, config.squeezed, 1, bias=False) for channels in reads])
        self.features = nn.Linear(config.squeezed, config.hidden)
        self.facts = nn.Linear(len(BOX_CHANNELS) + 2, config.hidden, bias=False)
        self.of_class = nn.Embedding(classes, config.hidden)
        self.middle = nn.Linear(config.hidden, config.hidden)
        answers = self.components * len(SPREAD_CHANNELS) * (3 if self.components > 1 else 1)
        self.last = nn.Linear(config.hidden, answers)
        nn.init.zeros_(self.of_class.weight)
        nn.init.normal_(self.last.weight, std=0.01)
        nn.init.zeros_(self.last.bias)

    def forward(self, reads: list[Tensor], candidates: Candidates, grid: BevGrid) -> Spread:
        """reads: maps (B, C, X, Y)."""
        scores, labels, cells, boxes = candidates[:4]
        facts = _facts(scores, cells, boxes, grid)
        if self.config.detach:
            reads, facts = [maps.detach() for maps in reads], facts.detach()
        seen = self._squeezed(reads)
        features = seen.flatten(2).gather(2, cells[:, None].expand(-1, seen.shape[1], -1)).transpose(1, 2).float()
        x = F.relu(self.features(features) + self.facts(facts) + self.of_class(labels))
        return self._answers(self.last(F.relu(self.middle(x))))

    def everywhere(self, reads: list[Tensor]) -> Tensor:
        """(B, X, Y, answers): what depends on the maps, at every cell. For whoever asks which channels are read."""
        x = F.relu(self.features(self._squeezed(reads).permute(0, 2, 3, 1)))
        answers: Tensor = self.last(F.relu(self.middle(x)))
        return answers

    def _squeezed(self, reads: list[Tensor]) -> Tensor:
        first, *others = [squeeze(maps) for squeeze, maps in zip(self.squeezes, reads, strict=True)]
        for other in others:
            first = first + other
        return first

    def _answers(self, raw: Tensor) -> Spread:
        said = raw.unflatten(2, (-1, self.components, len(SPREAD_CHANNELS)))
        log_std = (said[:, :, 0] + BEGINNING).clamp(*LOG_STD_LIMITS)
        if self.components == 1:
            zero = torch.zeros_like(log_std)
            return Spread(log_std, zero, zero)
        log_weights = F.log_softmax(said[:, :, 1], dim=2)
        offsets = said[:, :, 2]
        offsets = offsets - (log_weights.exp() * offsets).sum(dim=2, keepdim=True)
        return Spread(log_std, offsets, log_weights)


def _facts(scores: Tensor, cells: Tensor, boxes: Tensor, grid: BevGrid) -> Tensor:
    """(B, N, BOX_CHANNELS + 2): the box, the logit of its score and its distance, all of about the same size."""
    units = torch.ones(len(BOX_CHANNELS), device=boxes.device)
    units[-2:] = 1 / SPEED_MPS
    x, y = centres(cells, boxes, grid)
    inside = scores.float().clamp(SURE, 1 - SURE)
    logit = inside.log() - (1 - inside).log()
    more = torch.stack([logit, (x.square() + y.square()).sqrt() / RANGE_M], dim=2)
    return torch.cat([boxes.float() * units, more], dim=2)


def centres(cells: Tensor, boxes: Tensor, grid: BevGrid) -> tuple[Tensor, Tensor]:
    """(B, N) cells and (B, N, BOX_CHANNELS) -> x and y, (B, N) each, m in the ego frame."""
    ix, iy = torch.div(cells, grid.shape[1], rounding_mode="floor"), cells % grid.shape[1]
    return grid.x_min + (ix + boxes[..., 0]) * grid.step, grid.y_min + (iy + boxes[..., 1]) * grid.step


class SpreadHost(nn.Module, ABC):
    """A detection head that may have one: it gives what `reads` says to Prediction.aux where it has."""

    def __init__(self) -> None:
        super().__init__()
        self.spread: SpreadHead | None = None

    @abstractmethod
    def reads(self) -> tuple[nn.Conv2d, ...]:
        """The convolutions whose maps, once normed and through their ReLU, a head for the spread reads."""

    def told(self, *maps: Tensor) -> dict[str, Tensor]:
        """For aux: the maps of `reads`, in their order; nothing without a head that reads them."""
        return {f"{READS}{i}": tensor for i, tensor in enumerate(maps)} if self.spread is not None else {}


def host_of(detector: Detector) -> SpreadHost:
    """Raises ValueError for a network whose head cannot have one."""
    found = [module for module in detector.modules() if isinstance(module, SpreadHost)]
    if len(found) != 1:
        raise ValueError(f"{type(detector).__name__} has no head that could say how far its boxes may be off")
    return found[0]


def add_spread(detector: Detector, config: SpreadConfig) -> None:
    """Give it a fresh head, as wide as what it reads is today. Raises as `host_of`, and where the spec differs."""
    if detector.spec.spread != config.parts:
        raise ValueError(f"spec.spread is {detector.spec.spread}, a {config.form} head gives {config.parts}")
    host = host_of(detector)
    reads = tuple(layer.out_channels for layer in host.reads())
    host.spread = SpreadHead(reads, len(detector.spec.classes), config)


def spread_head(detector: Detector) -> SpreadHead | None:
    """That of a network which has one."""
    return next((module for module in detector.modules() if isinstance(module, SpreadHead)), None)


def reads_of(prediction: Prediction) -> list[Tensor]:
    return [tensor for name, tensor in sorted(prediction.aux.items()) if name.startswith(READS)]
