"""Several processes, begun by torchrun: who of them does what."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils.data import Sampler

Value = TypeVar("Value")


def rank_and_world() -> tuple[int, int]:
    """This process's number and how many there are; (0, 1) without torchrun."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))


def own_share(items: Sequence[Value]) -> Sequence[Value]:
    """This process's part of `items`; together the processes have each once."""
    rank, world = rank_and_world()
    return items[rank::world]


def own_threads() -> int:
    """This process's part of the cores it may run on, at least one: torch would give every process all of them."""
    return max(1, len(os.sched_getaffinity(0)) // int(os.environ.get("LOCAL_WORLD_SIZE", 1)))


def own_workers() -> int:
    """Loader processes for this process: its cores but the one that feeds its GPU, at most 16; without a GPU a quarter
    of them, since the network needs the rest. At least one."""
    cores = own_threads()
    return min(16, max(1, cores - 1)) if torch.cuda.is_available() else max(1, cores // 4)


def join_processes() -> None:
    """Connect the processes of torchrun, for commands that Lightning does not run. Objects are exchanged, so gloo."""
    if rank_and_world()[1] > 1 and not dist.is_initialized():
        dist.init_process_group("gloo")


def gather_dict(values: dict[int, Value]) -> dict[int, Value]:
    """The union of every process's dict, in every process."""
    if not dist.is_initialized():
        return values
    parts: list[dict[int, Value]] = [{} for _ in range(dist.get_world_size())]
    dist.all_gather_object(parts, values)
    return {key: value for part in parts for key, value in part.items()}


def check_same_step(step: int) -> None:
    """Raises ValueError, in every process, unless all of them go on from the same step."""
    steps = gather_dict({rank_and_world()[0]: step})
    other = next((rank for rank, found in steps.items() if found != steps[0]), 0)
    if other:
        raise ValueError(
            f"process 0 goes on from step {steps[0]}, process {other} from step {steps[other]}: machines of one run "
            "must share --out, or have copies of the same last.ckpt in it"
        )


def own_device() -> torch.device:
    """The GPU of this process, else the CPU."""
    return torch.device(f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if torch.cuda.is_available() else "cpu")


def count_of_all(count: Tensor) -> Tensor:
    """What to divide a process's sum by so that the mean over processes is the sum over all by the count of all (>= 1).

    Gradients of one process then equal those of many on the same samples: DDP averages over processes.
    """
    world = 1
    if dist.is_available() and dist.is_initialized():
        world = dist.get_world_size()
        count = count.detach().clone().float()
        dist.all_reduce(count)
    return count.clamp(min=1) / world


def sum_of_all(share: Tensor) -> Tensor:
    """The sum of every process's share. For losses that are no sum over samples, and then the same in all processes.

    The gradient to the share is as large as there are processes: DDP averages over them.
    """
    if not (dist.is_available() and dist.is_initialized()):
        return share
    total = share.detach().clone()
    dist.all_reduce(total)
    own = dist.get_world_size() * share
    return total + own - own.detach()


def mean_over_processes(values: Tensor) -> Tensor:
    """Element by element, in every process; the values themselves without torchrun."""
    if not (dist.is_available() and dist.is_initialized()):
        return values
    summed = values.clone()
    dist.all_reduce(summed)
    return summed / dist.get_world_size()


def any_of_all(flags: Tensor) -> bool:
    """Whether one of any process's flags is above 0: what to do where all processes must do the same."""
    return bool(mean_over_processes(flags.float().amax()) > 0)


class RankShard(Sampler[int]):
    """Every world-th index of an endless sampler, from the process's rank on: all together see each index once."""

    def __init__(self, sampler: Sampler[int]) -> None:
        self.sampler = sampler

    def __iter__(self) -> Iterator[int]:
        rank, world = rank_and_world()
        return islice(iter(self.sampler), rank, None, world)
