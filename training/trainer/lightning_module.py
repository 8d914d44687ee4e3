"""Lightning around a network: a step of training, its losses, what is logged, the schedule."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import lightning
import numpy as np
import torch
from torch import Tensor

from training.distill.agreement import gradient_norms, gradient_share
from training.distill.cache import TeacherCache, teacher_hash
from training.distill.module import Distiller
from training.models.detector import Prediction
from training.models.spread_head import host_of
from training.run import Run, build_detector, parameter_groups, run_to_plain
from training.schedules import rates
from training.teachers.frozen import FrozenTeacher
from training.trainer.network import Network, predict_clip

# Steps between two looks at how far student and teacher agree, and at how hard each loss pulls (a backward pass each;
# the first steps are looked at after 1, 2, 4, ...).
AGREEMENT_EVERY, GRADIENTS_EVERY = 20, 100


def gradients_due(step: int) -> bool:
    """Whether gradients are looked at in this step: 0, 1, 2, 4, ... 64, then every GRADIENTS_EVERY."""
    early = step < GRADIENTS_EVERY and step & (step - 1) == 0
    return early or step % GRADIENTS_EVERY == 0


class DetectorModule(lightning.LightningModule):
    """Trains a detector on ClipDataset items. The earlier frames' states get no gradient, as in BEVFormer.

    steps: of the optimiser, for the schedule; None: what run.optim.steps says. teachers, caches: of run.distill, to
    train; a checkpoint has their hashes, never their weights. Adapters are beside the detector, in `distiller`.
    """

    def __init__(
        self,
        run: Run,
        steps: int | None = None,
        teachers: Mapping[str, FrozenTeacher] | None = None,
        caches: Mapping[str, TeacherCache] | None = None,
    ) -> None:
        super().__init__()
        self.run = run
        self.steps = steps or run.optim.steps or 1
        self.network = Network(run, build_detector(run))
        self.detector = self.network.detector
        self.alone = run.spread is not None and run.spread.alone
        if self.alone:
            self.detector.requires_grad_(False)
            self.detector.eval()
            host_of(self.detector).spread.requires_grad_(True)  # type: ignore[union-attr]  # build_detector
        self.distiller: Distiller | None = None
        self.taught_by = {name: teacher_hash(teacher.detector) for name, teacher in (teachers or {}).items()}
        if run.distill is not None and teachers:
            self.distiller = Distiller(self.detector, teachers, run.distill, predict_clip, caches)

    def train(self, mode: bool = True) -> DetectorModule:
        """All but a head that learns alone keeps its statistics."""
        super().train(mode)
        if self.alone:
            self.detector.eval()
        return self

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Dropout depends on (seed, step) alone, like the data: a resumed run draws what an uninterrupted one does."""
        key = (self.run.seed, self.global_step, batch_idx % self.run.optim.accumulate, self.global_rank)
        torch.manual_seed(int(np.random.SeedSequence(key).generate_state(1)[0]))

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        with torch.set_grad_enabled(not self.alone):
            prediction = self.network.predict(batch)
        own, taught = self.network.losses(prediction, batch), self._distilled(prediction, batch)
        if taught and gradients_due(self.global_step) and batch_idx % self.run.optim.accumulate == 0:
            taught = self._balanced(own, taught)
        losses = own | taught
        total = torch.stack(list(losses.values())).sum()
        if not torch.isfinite(total):
            terms = {k: float(v.detach()) for k, v in losses.items()}
            raise FloatingPointError(
                f"loss is not finite at step {self.global_step}: {terms}; train anew with a lower lr or clip_norm"
            )
        self.log_dict({f"train/{k}": v.detach() for k, v in losses.items()}, prog_bar=True, sync_dist=True)
        self.log("train/total", total.detach(), sync_dist=True)
        return total

    def _distilled(self, prediction: Prediction, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Terms of the teachers; how far student and teacher agree is logged now and then."""
        if self.run.distill is None:
            return {}
        if self.distiller is None:
            raise ValueError("this run learns from teachers: train it with training.train, --teacher NAME=CHECKPOINT")
        self.distiller.diagnose = (self.global_step + 1) % AGREEMENT_EVERY == 0
        losses, diagnostics = self.distiller(prediction, batch)
        self.log_dict({f"agreement/{name}": value for name, value in diagnostics.items()})
        return losses

    def _balanced(self, own: dict[str, Tensor], taught: dict[str, Tensor]) -> dict[str, Tensor]:
        """The teachers' losses, pulling as hard as the distiller's config says, now and in the steps to come.

        Logs gradient/<term>, the norm of what each term, and detection as a whole, asked of the student before that,
        and pull/<term>, the same beside detection's on what the term reaches.
        """
        assert self.distiller is not None
        terms = {"detection": list(own.values())}
        for name, loss in taught.items():
            terms.setdefault(name.split("/")[0], []).append(loss)
        summed = {name: torch.stack(parts).sum() for name, parts in terms.items()}
        norms = gradient_norms(summed, self.detector.parameters())
        detection = norms["detection"]
        shares = {name: gradient_share(norm, detection) for name, norm in norms.items() if name != "detection"}
        self.log_dict({f"gradient/{name}": norm.norm() for name, norm in norms.items()})
        self.log_dict({f"pull/{name}": share for name, share in shares.items()})
        changes = self.distiller.balance(shares, settled=self.global_step >= GRADIENTS_EVERY)
        return {name: loss * changes[name.split("/")[0]] for name, loss in taught.items()}

    def configure_gradient_clipping(
        self, optimizer: torch.optim.Optimizer, gradient_clip_val: Any = None, gradient_clip_algorithm: Any = None
    ) -> None:
        """Clip, and stop before a gradient that is not finite spoils the weights (the scaler of fp16 skips those)."""
        norm = torch.nn.utils.clip_grad_norm_(self.parameters(), self.run.optim.clip_norm or math.inf)
        if self.run.precision != "16-mixed" and not torch.isfinite(norm):
            raise FloatingPointError(
                f"gradients are not finite at step {self.global_step}; train anew with a lower lr or in 32-true"
            )
        self.log("train/grad_norm", norm)

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        _, momentum = rates(self.run.optim, self.global_step, self.steps)
        for group in optimizer.param_groups:
            group["betas"] = (momentum, group["betas"][1])

    def configure_optimizers(self) -> Any:
        optim, steps = self.run.optim, self.steps
        optimizer = torch.optim.AdamW(parameter_groups(self, optim), lr=optim.lr, betas=(0.9, optim.beta2))
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rates(optim, step, steps)[0])
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["run"] = run_to_plain(self.run)
        checkpoint["teachers"] = dict(self.taught_by)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Raises ValueError when a run is to go on with other teachers than it began with."""
        before = checkpoint.get("teachers", {})
        if before != self.taught_by:
            raise ValueError(f"this run began with the teachers (hashes) {before}, now they are {self.taught_by}")
