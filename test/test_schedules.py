"""Learning rates, momentum and averages against closed forms; parameter groups."""

from __future__ import annotations

import dataclasses
import math
from types import SimpleNamespace

import pytest

torch = pytest.importorskip("torch", reason="needs torch")
pytest.importorskip("lightning", reason="needs lightning")

from training.run import parameter_groups  # noqa: E402
from training.schedules import SCHEDULES, OptimConfig, rates, total_steps  # noqa: E402
from training.trainer.ema import Ema, decay_at  # noqa: E402


def factors(optim, steps):
    return [rates(optim, step, steps)[0] for step in range(steps)]


def test_cosine_rises_linearly_then_falls_to_its_end():
    found = factors(OptimConfig(warmup_steps=4, lr_end=0.1), 24)
    assert found[:4] == [0.25, 0.5, 0.75, 1.0] and found[4] == 1.0
    assert found[14] == pytest.approx(0.55), "half way"
    assert found[-1] == pytest.approx(0.1 + 0.45 * (1 + math.cos(math.pi * 19 / 20)))
    assert found[4:] == sorted(found[4:], reverse=True)


def test_a_warm_up_may_begin_at_a_part_of_the_rate():
    found = factors(OptimConfig(warmup_steps=4, warmup_start=0.2), 24)
    assert found[:5] == pytest.approx([0.4, 0.6, 0.8, 1.0, 1.0])


def test_steps_fall_at_their_milestones():
    found = factors(OptimConfig(schedule="step", warmup_steps=0), 240)
    assert found[159] == 1 and found[160] == pytest.approx(0.1)
    assert found[219] == pytest.approx(0.1) and found[220] == pytest.approx(0.01)


def test_one_cycle_is_det3ds():
    """Cosine pieces through (0, lr / 10), (40 %, lr), (100 %, lr / 1e5), momentum the other way round."""
    optim = OptimConfig(schedule="one_cycle", warmup_steps=0)
    points = [rates(optim, step, 100) for step in (0, 20, 40, 70, 100)]
    lr, momentum = zip(*points)
    assert lr == pytest.approx((0.1, 0.55, 1.0, (1 + 1e-5) / 2, 1e-5))
    assert momentum == pytest.approx((0.95, 0.90, 0.85, 0.90, 0.95))


def test_settings_that_make_no_sense_are_refused():
    for wrong, words in (
        ({"schedule": "exponential"}, r"one of \['cosine', 'one_cycle', 'step'\], found 'exponential'"),
        ({"schedule": "one_cycle"}, "warmup_steps=0, found 100"),
        ({"ema": 1.0}, "ema must be a decay"),
        ({"beta2": 1.0}, r"beta2 must lie in \[0, 1\)"),
        ({"clip_norm": -1.0}, "clip_norm must be above 0, or 0 for no clip"),
        ({"accumulate": 0}, "accumulate must be 1 or more"),
    ):
        with pytest.raises(ValueError, match=words):
            OptimConfig(**wrong)
    assert set(SCHEDULES) == {"cosine", "one_cycle", "step"}


def test_a_run_is_as_long_as_its_steps_or_its_epochs():
    assert total_steps(OptimConfig(steps=7), 100, 4) == 7
    assert total_steps(OptimConfig(steps=None, epochs=24, accumulate=2), 1000, 8) == 1500
    for optim in (OptimConfig(steps=None), OptimConfig(steps=5, epochs=1.0)):
        with pytest.raises(ValueError, match=r"set one of optim\.steps and optim\.epochs and the other to none"):
            total_steps(optim, 100, 4)
    with pytest.raises(ValueError, match="a step at least"):
        total_steps(OptimConfig(steps=None, epochs=0.01), 100, 4)


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.image = torch.nn.ModuleDict({"backbone": torch.nn.Conv2d(1, 2, 1)})
        self.norm = torch.nn.BatchNorm2d(2)
        self.head = torch.nn.Conv2d(2, 1, 1)


def test_groups_hold_every_parameter_once_with_its_rate_and_decay():
    net = Net()
    optim = OptimConfig(lr=2e-4, weight_decay=1e-7, backbone_lr=0.1)
    groups = parameter_groups(net, optim)
    rows = {id(p): (g["lr"], g["weight_decay"]) for g in groups for p in g["params"]}
    assert len(rows) == sum(len(g["params"]) for g in groups) == len(list(net.parameters()))
    assert rows[id(net.head.weight)] == (2e-4, 1e-7) and rows[id(net.head.bias)] == (2e-4, 0.0)
    assert rows[id(net.norm.weight)] == (2e-4, 0.0)
    assert rows[id(net.image["backbone"].weight)] == pytest.approx((2e-5, 1e-7))
    assert {g["lr"] for g in parameter_groups(net, dataclasses.replace(optim, backbone_lr=1.0))} == {2e-4}
    every = {g["weight_decay"] for g in parameter_groups(net, dataclasses.replace(optim, decay_norms=True))}
    assert every == {1e-7}, "as published code has it"
    net.image["backbone"].weight.requires_grad_(False)  # what is frozen is not optimised
    assert len({id(p) for g in parameter_groups(net, optim) for p in g["params"]}) == 5
    net.image["backbone"].requires_grad_(False)  # BEVFormer: all norms of the backbone, and so all that is not decayed
    assert len({id(p) for g in parameter_groups(net, optim) for p in g["params"]}) == 4
    with pytest.raises(ValueError, match="no module called `backbone`"):
        parameter_groups(net.head, optim)


def test_the_average_follows_its_recurrence_and_lends_its_weights():
    module = torch.nn.Module()
    module.detector, module.device = torch.nn.BatchNorm1d(1), torch.device("cpu")
    detector, trainer = module.detector, SimpleNamespace(global_step=0)
    ema = Ema(0.9)
    ema.on_train_start(trainer, module)
    expected = 1.0
    for step in range(1, 6):
        with torch.no_grad():
            detector.weight.fill_(float(step))
        detector.num_batches_tracked += 1
        trainer.global_step = step
        for _ in range(2):  # the second batch only accumulates gradients
            ema.on_train_batch_end(trainer, module, None, None, 0)
        decay = 0.9 * (1 - math.exp(-step / 2000))
        assert decay_at(0.9, step) == decay
        expected = decay * expected + (1 - decay) * step
    assert float(ema.weights["weight"]) == pytest.approx(expected, rel=1e-6)
    with pytest.raises(KeyError), ema.used_by(detector):
        assert float(detector.weight) == pytest.approx(expected, rel=1e-6)
        raise KeyError
    assert float(detector.weight) == 5 and int(detector.num_batches_tracked) == 5
    checkpoint: dict = {}
    ema.on_save_checkpoint(trainer, module, checkpoint)
    again = Ema(0.9)
    again.on_load_checkpoint(trainer, module, checkpoint)
    again.on_train_start(trainer, module)
    assert torch.equal(again.weights["weight"], ema.weights["weight"])
