"""Logarithms of a softmax's probabilities and of what they leave to one, without a floor under which gradients end."""

from __future__ import annotations

import torch
from torch import Tensor


def log_probabilities(logits: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """Logits of any floating type -> log p and log(1 - p) of p = softmax over `dim`; float32, finite for finite logits.

    Of the likeliest entry 1 - p cancels, and with it the gradient of all the others: there 1 - p is summed from these
    others. All others have p of at most one half, of which log1p is exact.
    """
    logits = logits.float()
    log_p = logits.log_softmax(dim=dim)
    likeliest = logits.argmax(dim=dim, keepdim=True)
    lowest = torch.finfo(logits.dtype).min  # not -inf: a softmax over one entry has no others
    others = logits.scatter(dim, likeliest, lowest).logsumexp(dim=dim, keepdim=True)
    mine = torch.zeros_like(log_p, dtype=torch.bool).scatter(dim, likeliest, True)
    small = torch.where(mine, 0.0, log_p.exp())  # p = 1 has no logarithm, and its gradient would be nan times 0
    return log_p, torch.where(mine, others - logits.logsumexp(dim=dim, keepdim=True), torch.log1p(-small))
