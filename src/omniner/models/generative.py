"""Training of a causal model that writes entities: the step in packs, the evaluation by its own answers.

In come optimizer steps (`PackedStep`) and a share of dev, out come losses, metrics and checkpoints. The loss of a step
is the mean over its answer tokens, whatever packs and processes it is cut into: each pack's summed loss is divided by
the tokens of the whole step. One pack after the other runs forward and backward, so memory is that of one pack; between
data-parallel processes gradients travel with the last pack only. With divided weights (fsdp) they travel with each
pack: to wait for the last would need whole gradients on each device.

Evaluation takes the loss of the gold answers, then lets the model answer the sentences itself.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from omniner.encoding.generative_data import DevShare
from omniner.encoding.packs import PackedStep
from omniner.errors import Stopped, UserError
from omniner.models import adapters, causal, sharding
from omniner.models.answering import answers, build_guide
from omniner.models.attention_probe import choose
from omniner.models.causal import CausalModel
from omniner.models.devices import Precision
from omniner.models.f1 import DevScore
from omniner.models.learner import Learner
from omniner.models.progress import Progress
from omniner.models.shared_prefix import attach, pack_loss
from omniner.records import Prediction
from omniner.schema import CausalConfig, Config

_SAME = ("path", "architecture", "vocabulary", "chat_template")  # of the model; what makes it another one
_SAME_TUNING = ("method", "rank", "alpha", "targets", "double_quantization", "optimizer")


class GenerativeModule(Learner):
    """A causal model that learns to write answers.

    Args:
        model: built for training, on the CPU.
        config: `model`, `tuning`, `decoding`, `trainer` and `seed` are read.
        precision: of computing.
        prefix: token ids that all prompts begin with.
    """

    kind = "generative"
    best_name = "best"

    def __init__(self, model: CausalModel, config: Config, precision: Precision, prefix: list[int]) -> None:
        super().__init__(config.trainer, config.seed, DevScore("pair", answers=True))
        assert isinstance(config.model, CausalConfig), "checked by prepare"
        self.automatic_optimization = False
        self.strict_loading = False  # frozen weights are in no checkpoint; see check_state
        self.causal, self.model = model, model.model
        self.model_config, self.tuning, self.decoding = config.model, config.tuning, config.decoding
        self.precision, self.prefix = precision, prefix
        self._guide = build_guide(model, config.decoding)
        self._attention = ""

    def setup(self, stage: str) -> None:
        """Choose how attention is computed, while the weights are still whole."""
        if self._attention:
            return  # chosen when training began
        strategy = self.trainer.strategy
        divided = isinstance(strategy, sharding.Sharded) and self.precision != "32-true"
        precision = "bf16-true" if divided else self.precision  # what weights are put together in
        self._attention = choose(self.model, self.tuning.attention, strategy.root_device, precision)
        attach(self.model, self._attention)

    def configure_model(self) -> None:
        """Divide the weights, if the strategy is to."""
        if isinstance(self.trainer.strategy, sharding.Sharded) and not sharding.is_sharded(self.model):
            compute = torch.float32 if self.precision == "32-true" else torch.bfloat16
            sharding.shard(self.model, self.trainer.strategy.device_mesh["data_parallel"], compute)

    def configure_optimizers(self) -> Any:
        """The optimizer of `tuning.optimizer`, with the schedule per step."""
        rate = self.model_config.learning_rate[self.causal.method]
        # 8-bit states cannot be divided between processes
        tuning = dataclasses.replace(self.tuning, optimizer="adamw") if self._sharded else self.tuning
        optimizer = adapters.optimizer(self.model, tuning, rate, self.model_config.weight_decay)
        return {"optimizer": optimizer, "lr_scheduler": self.scheduler(optimizer)}

    def on_train_batch_start(self, batch: PackedStep, batch_idx: int) -> None:
        """Draw this step's random choices from the seed, the step and the process."""
        self.begin_step(self.trainer.global_rank)

    def training_step(self, batch: PackedStep, batch_idx: int) -> Tensor:
        """One optimizer step; gives the mean loss over its answer tokens (as this process's part of it)."""
        optimizer: Any = self.optimizers()
        # gradients are averaged over processes, but the loss is a sum over them: undo that
        scale = self.trainer.world_size / batch.answer_tokens
        loss = torch.zeros((), device=self.device)
        for number, pack in enumerate(batch.packs, start=1):
            with self._communicating(number == len(batch.packs)):
                part = pack_loss(self.model, pack) * scale
                with torch.autocast(self.device.type, enabled=False):
                    self.manual_backward(part)
            loss += part.detach()
        if self.config.gradient_clip:
            self._clip([weight for group in optimizer.param_groups for weight in group["params"]], batch)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        self._log(loss, batch)
        scheduler: Any = self.lr_schedulers()
        scheduler.step()
        return loss

    def on_train_batch_end(self, outputs: Any, batch: PackedStep, batch_idx: int) -> None:
        """Measure the speed."""
        own = sum(len(pack.ids) for pack in batch.packs)
        self.end_step({"sentences": batch.sentences, "tokens": own})

    def validation_step(self, batch: DevShare, batch_idx: int) -> None:
        """The loss of the gold answers, and the model's own answers."""
        loss = torch.zeros((), device=self.device)
        for pack in batch.step.packs:
            loss += pack_loss(self.model, pack)
        tokens = sum(len(pack.targets) * pack.weight for pack in batch.step.packs)
        found = self._answer(batch)
        failed = sum(prediction.parse == "failed" for prediction in found.values())
        gold = [sample.gold for sample in batch.samples]
        predicted = [found[sample.id].entities for sample in batch.samples]
        self.score.update(gold, predicted, failed, loss, tokens)

    def describe(self) -> dict[str, Any]:
        """What makes the model another one, or its weights others."""
        model, tuning = dataclasses.asdict(self.model_config), dataclasses.asdict(self.tuning)
        return {
            "model": {name: model[name] for name in _SAME},
            "tuning": {name: tuning[name] for name in _SAME_TUNING},
            "prompt": self.causal.prompt.to_json(),
        }

    def save_best(self, path: Path) -> None:
        """Write the folder that prediction loads."""
        state = sharding.full_state(self.model) if self._sharded else None
        if self.trainer.is_global_zero:
            causal.save(path, self.causal, state)

    def check_state(self, checkpoint: Mapping[str, Any]) -> None:
        """All weights that learn must be there; the frozen ones come from where they came from before."""
        missing = sorted(self._learning().keys() - checkpoint["state_dict"].keys())
        if missing:
            found = f"last.ckpt lacks {len(missing)} of the weights that learn, {missing[0]} first"
            raise UserError("resume", found, "Set resume=never, or choose another output_dir.")

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Store the description, and of the weights only those that learn."""
        super().on_save_checkpoint(checkpoint)
        learning = self._learning()
        state = checkpoint["state_dict"]
        checkpoint["state_dict"] = {name: value for name, value in state.items() if name in learning}

    @property
    def _sharded(self) -> bool:
        return sharding.is_sharded(self.model)

    def _answer(self, batch: DevShare) -> dict[str, Prediction]:
        """The answers to this process's samples by id; all processes must call it."""
        found: dict[str, Prediction] = {}
        progress = Progress("dev sentences answered", len(batch.samples), quiet=not self.trainer.is_global_zero)
        with sharding.whole(self.model) if self._sharded else nullcontext():
            for part in answers(
                self.causal, batch.samples, self.prefix, self.decoding, self._guide, self.seed, frozenset()
            ):
                found |= {prediction.id: prediction for prediction in part}
                progress.add(len(part))
                if self.stop_signal and self.trainer.world_size == 1:
                    raise Stopped(self.stop_signal)  # the evaluation is made again when training goes on
        return found

    def _communicating(self, wanted: bool) -> AbstractContextManager[Any]:
        """Whether data-parallel processes add up their gradients in a backward pass."""
        model = self.trainer.strategy.model
        return model.no_sync() if isinstance(model, DistributedDataParallel) and not wanted else nullcontext()

    def _clip(self, weights: list[nn.Parameter], batch: PackedStep) -> None:
        """Scale all gradients down together where their norm is too large; log the norm before that."""
        norm = nn.utils.clip_grad_norm_(weights, self.config.gradient_clip)
        if self.logs:
            whole = norm.full_tensor() if isinstance(norm, DTensor) else norm
            self.log("train/gradient_norm", whole, batch_size=batch.sentences)

    def _learning(self) -> dict[str, nn.Parameter]:
        """The weights that learn."""
        return {name: weight for name, weight in self.named_parameters() if weight.requires_grad}

    def _log(self, loss: Tensor, batch: PackedStep) -> None:
        if not self.logs:
            return
        self.log_step(loss, batch.sentences)
        self.log("train/packs", float(len(batch.packs)), batch_size=batch.sentences)
        tokens = self.rates.get("tokens", 0.0)
        # each process knows its own tokens
        self.log("train/tokens_per_second", tokens, batch_size=batch.sentences, sync_dist=True, reduce_fx="sum")
