"""What teaches a network how far its boxes may be off: likelihoods of the errors of its own candidates."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from bev_perception.evaluation.box_errors import NO_HEADING, NO_SPEED
from bev_perception.evaluation.matching import DISTANCES, PERIOD, TRUE_AT
from bev_perception.grid import BevGrid
from bev_perception.model_spec import SPREAD_CHANNELS
from training.losses.detection import VELOCITY, YAW
from training.models.detector import Candidates
from training.models.spread_head import Spread, SpreadConfig, centres
from training.processes import count_of_all

MATCHED_M = DISTANCES[TRUE_AT]
SURE = 1e-5


def gaussian_nll(error: Tensor, log_std: Tensor, beta: float = 0.0) -> Tensor:
    """-log N(error | 0, std), and with beta that times std^(2 beta) without gradient: beta-NLL (Seitzer et al., ICLR
    2022, eq. 4), whose gradient to a mean is error / variance^(1 - beta). Of the shape of its arguments."""
    loss = log_std + 0.5 * math.log(2 * math.pi) + 0.5 * error.square() * (-2 * log_std).exp()
    return loss * (2 * beta * log_std.detach()).exp() if beta else loss


def laplace_nll(error: Tensor, log_std: Tensor, beta: float = 0.0) -> Tensor:
    """-log of Laplace's density of that standard deviation, whose scale b is std / sqrt(2); with beta times b^beta, so
    that 1 gives a mean the gradient of L1, as it gives that of L2 to a Gaussian's."""
    log_scale = log_std - 0.5 * math.log(2)
    loss = log_scale + math.log(2) + error.abs() * (-log_scale).exp()
    return loss * (beta * log_scale.detach()).exp() if beta else loss


def mixture_nll(error: Tensor, spread: Spread) -> Tensor:
    """-log of a mixture's density at (B, N, C) errors (AL-MDN; Choi et al., ICCV 2021, who take half of it, and add a
    small number within the logarithm, which logsumexp needs not)."""
    each = gaussian_nll(error[:, :, None] - spread.offsets, spread.log_std)
    return -torch.logsumexp(spread.log_weights - each, dim=2)


def _plain(nll: Callable[[Tensor, Tensor, float], Tensor]) -> Callable[[Tensor, Spread, float], Tensor]:
    return lambda error, spread, beta: nll(error, spread.log_std[:, :, 0], beta)


# Form -> loss of (B, N, C) errors of what the spread is about, and beta.
LIKELIHOODS: dict[str, Callable[[Tensor, Spread, float], Tensor]] = {
    "gaussian": _plain(gaussian_nll),
    "laplace": _plain(laplace_nll),
    "mixture": lambda error, spread, beta: mixture_nll(error, spread),
}


def class_nll(logit: Tensor, right: Tensor, log_std: Tensor, offsets: Tensor, log_weights: Tensor) -> Tensor:
    """Cross entropy of the probability that a logit of this spread means, (B, N) and (B, N, K) -> (B, N).

    That is E[sigmoid(logit + offset + std x normal)], by MacKay's approximation of each component. AL-MDN takes the
    mean of the cross entropies of drawn logits instead, in which no spread is ever better than none: the cross entropy
    is convex in the logit (Kendall and Gal, NeurIPS 2017, eq. 12, have the mean within the logarithm as well).
    """
    each = (logit[..., None] + offsets) / (1 + math.pi / 8 * (2 * log_std).exp()).sqrt()
    probability = (log_weights.exp() * each.sigmoid()).sum(dim=-1).clamp(SURE, 1 - SURE)
    return F.binary_cross_entropy(probability, right, reduction="none")


class Found(NamedTuple):
    """Of (B, N) candidates. errors (B, N, SPREAD_CHANNELS - 1) predicted minus true; known, of that shape: 1 where
    there is one. right (B, N): 1 for what is an object's detection; counts (B, N): 0 for what is near an object that
    another candidate is of."""

    errors: Tensor
    known: Tensor
    right: Tensor
    counts: Tensor


def find_errors(candidates: Candidates, batch: dict[str, Tensor], grid: BevGrid, classes: tuple[str, ...]) -> Found:
    """An object's detection is the strongest candidate of its class within MATCHED_M of it."""
    scores, labels, cells, boxes = candidates
    x, y = centres(cells, boxes.float(), grid)
    objects = batch["gt_boxes"].float()
    real = (batch["gt_valid"] > 0)[:, None] & (labels[:, :, None] == batch["labels"][:, None])
    metres = torch.hypot(x[:, :, None] - objects[:, None, :, 0], y[:, :, None] - objects[:, None, :, 1]).detach()
    near = real & (metres <= MATCHED_M)
    best = torch.where(near, scores.detach()[:, :, None], -1.0).argmax(dim=1)  # (B, M)
    chosen = F.one_hot(best, scores.shape[1]).transpose(1, 2).bool() & near  # (B, N, M)
    right = chosen.any(dim=2)
    of_object = torch.where(chosen, metres, torch.inf).argmin(dim=2)  # (B, N), of two the nearer

    def theirs(values: Tensor) -> Tensor:
        return values.gather(1, of_object[..., None].expand(-1, -1, values.shape[2])).float()

    coded, box, mask = theirs(batch["boxes"]), theirs(batch["gt_boxes"]), theirs(batch["mask"])
    angle = torch.atan2(y, x).detach()
    half = _of(labels, tuple(PERIOD), classes) & ((boxes[..., YAW].detach() * coded[..., YAW]).sum(dim=-1) < 0)
    place = _turned(x - box[..., 0], y - box[..., 1], angle)
    off = boxes[..., VELOCITY] - coded[..., VELOCITY]
    speed = _turned(off[..., 0], off[..., 1], angle)
    rest = boxes[..., 2:6] - coded[..., 2:6]
    yaw = boxes[..., YAW] - torch.where(half[..., None], -coded[..., YAW], coded[..., YAW])
    errors = torch.cat([place, rest, yaw, speed], dim=-1)

    known = right[..., None].float().repeat(1, 1, errors.shape[2])
    known[..., YAW] *= ~_of(labels, NO_HEADING, classes)[..., None]
    known[..., VELOCITY] *= ~_of(labels, NO_SPEED, classes)[..., None] * mask[..., VELOCITY]
    return Found(errors, known, right.float(), (right | ~near.any(dim=2)).float())


def _of(labels: Tensor, names: tuple[str, ...], classes: tuple[str, ...]) -> Tensor:
    found = torch.zeros_like(labels, dtype=torch.bool)
    for name in set(names) & set(classes):
        found |= labels == classes.index(name)
    return found


def _turned(x: Tensor, y: Tensor, angle: Tensor) -> Tensor:
    """(B, N, 2) along and across a direction at `angle` from x."""
    return torch.stack([x * angle.cos() + y * angle.sin(), y * angle.cos() - x * angle.sin()], dim=-1)


def spread_losses(spread: Spread, candidates: Candidates, found: Found, config: SpreadConfig) -> dict[str, Tensor]:
    """Weighted means: over what is known of each error's likelihood, over what counts of the classes'."""
    errors = found.errors.detach() if config.detach else found.errors
    regression = Spread(*(part[..., : len(SPREAD_CHANNELS) - 1] for part in spread))
    nll = LIKELIHOODS[config.form](errors, regression, config.beta)
    score = candidates[0].float().clamp(SURE, 1 - SURE)
    logit = score.log() - (1 - score).log()
    of_logit = [part[..., -1] for part in spread]
    classes = class_nll(logit.detach() if config.detach else logit, found.right, *of_logit)
    return {
        "spread": config.weight * (nll * found.known).sum() / count_of_all(found.known.sum()),
        "spread_class": config.weight * (classes * found.counts).sum() / count_of_all(found.counts.sum()),
    }
