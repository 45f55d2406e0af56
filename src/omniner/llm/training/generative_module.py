"""The Lightning module that trains a causal model to write entities: steps in packs, evaluation by generation.

The loss of an optimizer step is the mean over its answer tokens, however it is divided into packs and processes: each
pack's summed loss is divided by the tokens of the whole step. Packs run forward and backward one after the other, so
memory is that of one pack. Data-parallel processes exchange gradients only with the last pack. With sharded weights
(fsdp) they exchange them with each pack: waiting for the last would need full gradients on each device.

An evaluation computes the loss of the gold answers of dev, then lets the model answer the sentences (`hf_engine`, which
also predicts after training).
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from omniner.compute.devices import Devices
from omniner.compute.precision import compute_dtype
from omniner.config.class_defaults import with_class_defaults
from omniner.config.groups import Config
from omniner.config.model_groups import CausalConfig, TuningConfig
from omniner.errors import Stopped, UserError
from omniner.llm.decoding.decoder import Decoder
from omniner.llm.decoding.hf_engine import build_constraint, predict_answers
from omniner.llm.decoding.prefix_cache import check_supported
from omniner.llm.language_model import CausalModel, save_causal_model
from omniner.llm.training.attention_probe import choose_attention
from omniner.llm.training.generative_data import DevShare
from omniner.llm.training.optimizers import build_optimizer, choose_optimizer
from omniner.llm.training.packs import PackedStep
from omniner.llm.training.shared_prefix import attach_attention, pack_loss
from omniner.pretrained import base_model
from omniner.progress import Progress
from omniner.records import Prediction
from omniner.training.learner import DevScore, Learner
from omniner.training.sharding import ShardedStrategy, full_state_dict, is_sharded, shard_model, unsharded

log = logging.getLogger("omniner")

# Keys that change the model or its weights
_SAME = {
    CausalConfig: ("path", "architecture", "vocabulary", "chat_template"),
    TuningConfig: ("method", "rank", "alpha", "targets", "double_quantization", "optimizer"),
}


class GenerativeModule(Learner):
    """Train a causal model to write answers.

    Args:
        causal: built for training, on the CPU.
        config: `model`, `tuning`, `decoding`, `trainer` and `seed` are read.
        devices: the devices and the precision of training.
        prefix: token ids that all prompts begin with.
        unit: unit of dev scores, `span` or `pair`.
    """

    kind = "generative"
    best_name = "best"
    keeps_own_dtype = True

    def __init__(self, causal: CausalModel, config: Config, devices: Devices, prefix: list[int], unit: str) -> None:
        super().__init__(config.trainer, config.seed, DevScore(unit, answers=True))
        assert config.llm is not None, "taggers have a module of their own"
        self.automatic_optimization = False
        self.strict_loading = False  # frozen weights are in no checkpoint; see check_state
        self.causal, self.model = causal, causal.model
        self.model_config, self.decoding = config.llm, config.decoding
        wanted = config.tuning.optimizer
        self._optimizer_name = choose_optimizer(self.model, wanted, devices.accelerator, devices.strategy)
        self.tuning = dataclasses.replace(config.tuning, optimizer=self._optimizer_name)
        self.precision, self.prefix = devices.precision, prefix
        self._learning_dtype = devices.dtype(learns=True)
        self._constraint = build_constraint(causal, config.decoding)

        self._attention = ""

    def setup(self, stage: str) -> None:
        """Choose how attention is computed, before the weights are sharded."""
        if self._attention:
            return  # chosen when training began
        check_supported(base_model(self.model))  # otherwise the first evaluation would reject it, after an epoch
        strategy = self.trainer.strategy
        divided = isinstance(strategy, ShardedStrategy) and self.precision != "32-true"
        precision = "bf16-true" if divided else self.precision  # in which weights are gathered
        self._attention = choose_attention(self.model, self.tuning.attention, strategy.root_device, precision)
        attach_attention(self.model, self._attention, compute_dtype(precision))

    def configure_model(self) -> None:
        """Shard the weights if the strategy does so; then convert trainable weights to their dtype.

        Until then they may be pages of their file, which the processes of a host share: none holds a whole copy.
        """
        strategy = self.trainer.strategy
        if isinstance(strategy, ShardedStrategy) and not is_sharded(self.model):
            compute = compute_dtype(self.precision)
            shard_model(self.model, strategy.device_mesh["data_parallel"], compute)
        if self.causal.method == "full":
            convert_weights(self.model.to(strategy.root_device), self._learning_dtype)

    def configure_optimizers(self) -> Any:
        """Build the optimizer that `tuning.optimizer` names, with the schedule per step."""
        rate = self.model_config.learning_rate[self.causal.method]
        optimizer = build_optimizer(self.model, self._optimizer_name, rate, self.model_config.weight_decay)
        return {"optimizer": optimizer, "lr_scheduler": self.scheduler(optimizer)}

    def on_train_batch_start(self, batch: PackedStep, batch_idx: int) -> None:
        """Seed this step, with a different seed on each process, see `begin_step`."""
        self.begin_step(self.trainer.global_rank)

    def training_step(self, batch: PackedStep, batch_idx: int) -> Tensor:
        """Do one optimizer step.

        Returns:
            This process's part of the mean loss over the step's answer tokens.
        """
        optimizer: Any = self.optimizers()
        # gradients are averaged over processes, but the loss is a sum over them: undo that
        scale = self.trainer.world_size / batch.answer_tokens
        loss = torch.zeros((), device=self.device)
        for number, pack in enumerate(batch.packs, start=1):
            with self._gradients_summed(number == len(batch.packs)):
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
        """Measure the speed in sentences and tokens."""
        own = sum(len(pack.ids) for pack in batch.packs)
        self.end_step({"sentences": batch.sentences, "tokens": own})

    def validation_step(self, batch: DevShare, batch_idx: int) -> None:
        """Add the loss of the gold answers and the model's own answers to the score of dev."""
        loss = torch.zeros((), device=self.device)
        for pack in batch.step.packs:
            loss += pack_loss(self.model, pack)
        tokens = sum(len(pack.targets) * pack.weight for pack in batch.step.packs)
        found = self._answer_dev(batch)
        failed = sum(prediction.parse == "failed" for prediction in found.values())
        gold = [sample.gold for sample in batch.samples]
        predicted = [found[sample.id].entities for sample in batch.samples]
        self.score.update(gold, predicted, failed, loss, tokens)

    def describe(self) -> dict[str, Any]:
        """Return what changes the model or its weights; training resumes only if it is the same."""
        return {
            "model": _same_keys(CausalConfig, dataclasses.asdict(self.model_config)),
            "tuning": _same_keys(TuningConfig, dataclasses.asdict(self.tuning)),
            "prompt": self.causal.prompt.to_json(),
            "base_weights": self.causal.base_weights,
            "base_revision": self.causal.base_revision,
        }

    def stored_description(self, checkpoint: Mapping[str, Any]) -> Any:
        """Return the stored result of `describe`, completed for older files; their optimizer may be `auto`."""
        stored = super().stored_description(checkpoint)
        if stored is None:
            return None
        model, tuning = _same_keys(CausalConfig, stored["model"]), _same_keys(TuningConfig, stored["tuning"])
        if tuning["optimizer"] == "auto":
            tuning["optimizer"] = self.tuning.optimizer
        base, now, then = self.causal.base, self.causal.base_revision, stored.get("base_revision")
        if then and now != then:  # the weights may still be the same: a commit can be about a text only
            message = "%s has moved on the hub: this training began with its commit %s, and goes on with %s"
            log.warning(message, base, then, now)
        older = {"base_weights": self.causal.base_weights}
        return {**older, **stored, "model": model, "tuning": tuning, "base_revision": now}

    def save_best(self, path: Path) -> None:
        """Write the folder that prediction loads."""
        state = full_state_dict(self.model) if is_sharded(self.model) else None
        if self.trainer.is_global_zero:
            save_causal_model(path, self.causal, state)

    def check_state(self, checkpoint: Mapping[str, Any]) -> None:
        """Reject a checkpoint that lacks trainable weights; frozen ones are loaded from their original source."""
        missing = sorted(self._learning().keys() - checkpoint["state_dict"].keys())
        if missing:
            found = f"last.ckpt lacks {len(missing)} of the weights that learn, {missing[0]} first"
            raise UserError("resume", found, "Set resume=never, or choose another output_dir.")

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Store the description, and only the trainable weights."""
        super().on_save_checkpoint(checkpoint)
        learning = self._learning()
        state = checkpoint["state_dict"]
        checkpoint["state_dict"] = {name: value for name, value in state.items() if name in learning}

    def _answer_dev(self, batch: DevShare) -> dict[str, Prediction]:
        """Answer this process's samples; all processes must call it.

        Returns:
            Predictions by the sample's id.
        """
        found: dict[str, Prediction] = {}
        with unsharded(self.model) if is_sharded(self.model) else nullcontext():
            decoder = Decoder(self.model, self.causal.chat, self.prefix, self.decoding, self._constraint, self.seed)
            decoder.read_prefix()  # with the current weights
            progress = Progress(
                "dev sentences answered",
                len(batch.samples),
                at_once=True,
                enough=self.decoding.usual_slots,
                quiet=not self.trainer.is_global_zero,
                note=lambda: decoder.progress_note,
            )
            for part in predict_answers(self.causal, decoder, batch.samples, frozenset()):
                found |= {prediction.id: prediction for prediction in part}
                progress.add(len(part))
                if self.stop_signal and self.trainer.world_size == 1:
                    raise Stopped(self.stop_signal)  # the evaluation is repeated when training resumes
        return found

    def _gradients_summed(self, wanted: bool) -> AbstractContextManager[Any]:
        """Sum the gradients of data-parallel processes in the backward passes of the block, or not."""
        model = self.trainer.strategy.model
        return model.no_sync() if isinstance(model, DistributedDataParallel) and not wanted else nullcontext()

    def _clip(self, weights: list[nn.Parameter], batch: PackedStep) -> None:
        """Scale all gradients down together if their norm is too large; log the norm before that."""
        norm = nn.utils.clip_grad_norm_(weights, self.config.gradient_clip)
        if self.logs:
            full = norm.full_tensor() if isinstance(norm, DTensor) else norm
            self.log("train/gradient_norm", full, batch_size=batch.sentences)

    def _learning(self) -> dict[str, nn.Parameter]:
        """Return the trainable weights by name."""
        return {name: weight for name, weight in self.named_parameters() if weight.requires_grad}

    def _log(self, loss: Tensor, batch: PackedStep) -> None:
        if not self.logs:
            return
        self.log_step(loss, batch.sentences)
        self.log("train/packs", float(len(batch.packs)), batch_size=batch.sentences)
        tokens = self.rates.get("tokens", 0.0)
        # each process knows its own tokens
        self.log("train/tokens_per_second", tokens, batch_size=batch.sentences, sync_dist=True, reduce_fx="sum")


def _same_keys(group: type[CausalConfig | TuningConfig], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keys of a section that must not change when training resumes."""
    filled = with_class_defaults(group, values)
    return {name: filled.get(name) for name in _SAME[group]}


def convert_weights(model: nn.Module, dtype: torch.dtype) -> None:
    """Convert all weights of a model to a dtype; buffers, such as frequencies of positions, keep theirs."""
    weights = {id(weight) for weight in model.parameters()}
    model._apply(lambda value: value.to(dtype) if id(value) in weights else value)  # type: ignore[no-untyped-call]
