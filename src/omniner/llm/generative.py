"""Training of a causal model that writes entities: the step in packs, the evaluation by its own answers.

In come optimizer steps (`PackedStep`) and a share of dev, out come losses, metrics and checkpoints. The loss of a step
is the mean over its answer tokens, whatever packs and processes it is cut into: each pack's summed loss is divided by
the tokens of the whole step. One pack after the other runs forward and backward, so memory is that of one pack; between
data-parallel processes gradients travel with the last pack only. With divided weights (fsdp) they travel with each
pack: to wait for the last would need whole gradients on each device.

Evaluation takes the loss of the gold answers, then lets the model answer the sentences itself.

Predictions of a causal model for encoded sentences: while it is trained, and when it is asked.

In come samples, out come predictions as the generator finishes them, with the model's own text in `raw`.

The trainer's view of a corpus for a causal model: optimizer steps in packs to learn from, a share of dev to answer.

In come sentences and a `PromptEncoder`, out come loaders. As for taggers (`datamodule`), all is encoded when the module
is made, so that what is wrong with the data is said at once. Dev is one batch for each process: its packs give the loss
of the gold answers, its samples are answered, and a generator that is given all of them keeps its slots full. With
entity replacement the training sentences of each epoch are made anew and encoded at its start.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from omniner.answers import prediction_from_answer
from omniner.config.groups import CausalConfig, Config, DecodingConfig, TrainerConfig
from omniner.errors import Stopped, UserError
from omniner.llm.adapters import build_optimizer
from omniner.llm.attention_probe import choose_attention
from omniner.llm.constraint import AnswerConstraint, Constraint
from omniner.llm.generate import Answer, GenerationRequest, Generator
from omniner.llm.language_model import CausalModel, save_causal_model
from omniner.llm.packs import PackedStep, StepLoader
from omniner.llm.samples import PromptEncoder, Sample
from omniner.llm.shared_prefix import attach_attention, pack_loss
from omniner.progress import Progress
from omniner.records import Prediction, Sentence
from omniner.training import devices
from omniner.training.data import EntityReplacement, TrainingData, dev_sample, refuse_empty
from omniner.training.devices import Precision
from omniner.training.learner import DevScore, Learner

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
    holds_its_type = True

    def __init__(self, model: CausalModel, config: Config, precision: Precision, prefix: list[int]) -> None:
        super().__init__(config.trainer, config.seed, DevScore("pair", answers=True))
        assert isinstance(config.model, CausalConfig), "checked by prepare"
        self.automatic_optimization = False
        self.strict_loading = False  # frozen weights are in no checkpoint; see check_state
        self.causal, self.model = model, model.model
        self.model_config, self.tuning, self.decoding = config.model, config.tuning, config.decoding
        self.precision, self.prefix = precision, prefix
        self._guide = build_constraint(model, config.decoding)
        self._attention = ""

    def setup(self, stage: str) -> None:
        """Choose how attention is computed, while the weights are still whole."""
        if self._attention:
            return  # chosen when training began
        strategy = self.trainer.strategy
        divided = isinstance(strategy, devices.Sharded) and self.precision != "32-true"
        precision = "bf16-true" if divided else self.precision  # what weights are put together in
        self._attention = choose_attention(self.model, self.tuning.attention, strategy.root_device, precision)
        attach_attention(self.model, self._attention)

    def configure_model(self) -> None:
        """Divide the weights, if the strategy is to."""
        if isinstance(self.trainer.strategy, devices.Sharded) and not devices.is_sharded(self.model):
            compute = torch.float32 if self.precision == "32-true" else torch.bfloat16
            devices.shard(self.model, self.trainer.strategy.device_mesh["data_parallel"], compute)

    def configure_optimizers(self) -> Any:
        """The optimizer of `tuning.optimizer`, with the schedule per step."""
        rate = self.model_config.learning_rate[self.causal.method]
        # 8-bit states cannot be divided between processes
        tuning = dataclasses.replace(self.tuning, optimizer="adamw") if self._sharded else self.tuning
        optimizer = build_optimizer(self.model, tuning, rate, self.model_config.weight_decay)
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
        state = devices.full_state(self.model) if self._sharded else None
        if self.trainer.is_global_zero:
            save_causal_model(path, self.causal, state)

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
        return devices.is_sharded(self.model)

    def _answer(self, batch: DevShare) -> dict[str, Prediction]:
        """The answers to this process's samples by id; all processes must call it."""
        found: dict[str, Prediction] = {}
        progress = Progress("dev sentences answered", len(batch.samples), quiet=not self.trainer.is_global_zero)
        with devices.whole(self.model) if self._sharded else nullcontext():
            for part in predict_answers(
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


_CUT = "stopped by decoding.max_new_tokens"


def build_constraint(causal: CausalModel, config: DecodingConfig) -> Constraint | None:
    """What keeps answers in form, if `decoding.kind` asks for it."""
    if config.kind != "guided":
        return None
    return AnswerConstraint(causal.chat, causal.prompt.categories, causal.prompt.answer)


def engine_name(config: DecodingConfig) -> str:
    """The name that predictions made in this process carry."""
    return "hf-guided" if config.kind == "guided" else "hf"


def predict_answers(
    causal: CausalModel,
    samples: Sequence[Sample],
    prefix: Sequence[int],
    config: DecodingConfig,
    guide: Constraint | None,
    seed: int,
    done: frozenset[str],
) -> Iterator[list[Prediction]]:
    """Predictions for the samples that are not `done`, in the order in which the generator finishes them.

    Args:
        causal: in evaluation mode, on its device.
        samples: all of them, those that are done too: they decide which sentences are decoded together.
        prefix: token ids that all prompts begin with.
        config: how to decode.
        guide: what `build_guide` gave.
        seed: of drawn tokens.
        done: ids of samples.
    """
    generator = Generator(causal.model, causal.chat, list(prefix), config, guide, seed)
    texts = {sample.id: sample.text for sample in samples}
    requests = [GenerationRequest(sample.id, sample.prompt, sample.text) for sample in samples]
    sha, name = causal.prompt.sha, engine_name(config)
    for batch in generator.run(requests, done):
        yield [_prediction(answer, texts[answer.id], sha, name) for answer in batch]


def _prediction(answer: Answer, text: str, sha: str, name: str) -> Prediction:
    prediction = prediction_from_answer(Sentence(answer.id, text), answer.text, sha, name)
    if not answer.finished:
        prediction.reason = "; ".join(filter(None, (_CUT, prediction.reason)))
    return prediction


@dataclass
class DevShare:
    """What one process evaluates.

    Attributes:
        samples: to be answered; those of all processes together are dev. May be empty.
        step: the packs of this process's part of the loss, equally many on every process; they hold other samples.
    """

    samples: list[Sample]
    step: PackedStep

    def to(self, device: torch.device | str, **options: Any) -> DevShare:
        """The same share with its packs on another device."""
        return replace(self, step=self.step.to(device, **options))


class DevLoader:
    """One `DevShare`.

    Args:
        samples: all that are evaluated.
        prefix: tokens that all prompts share.
        pack_tokens: most tokens of a pack.
        rank, ranks: this process, and how many there are.
    """

    def __init__(self, samples: Sequence[Sample], prefix: int, pack_tokens: int, rank: int, ranks: int) -> None:
        # all of dev as if it were one optimizer step: only the packs matter
        count = len(samples)
        (step,) = StepLoader(lambda epoch: samples, count, prefix, count, pack_tokens, 0, rank, ranks, lambda: 0)
        self._share = DevShare(list(samples[rank::ranks]), step)

    def __len__(self) -> int:
        return 1

    def __iter__(self) -> Iterator[DevShare]:
        yield self._share


@dataclass(frozen=True)
class PackStatistics:
    """The arithmetic of an epoch, for people.

    Attributes:
        steps: optimizer steps.
        prefix: tokens that all prompts share; computed once for each pack.
        packs: of all steps and processes.
        pack_tokens: tokens of all packs, their prefixes included: what is computed.
        sample_tokens: tokens of all prompts and answers: what would be computed one by one.
        answer_tokens: those that are learnt.
        largest: tokens of the largest pack.
    """

    steps: int
    prefix: int
    packs: int
    pack_tokens: int
    sample_tokens: int
    answer_tokens: int
    largest: int


class GenerativeData(TrainingData):
    """Loaders for training a causal model.

    Args:
        encoder: from sentences to samples.
        train, dev: sentences to learn from, and to choose the checkpoint by.
        config: sentences of a step, and how much of dev is evaluated.
        pack_tokens: most tokens of a pack.
        replacement: share of mentions exchanged in each epoch; 0 = none.
        seed: of the steps, of replacement and of the choice from dev.

    Attributes:
        issues: what could not be encoded as it was.
        train_samples, dev_samples: the encoded splits; of dev only what is evaluated.
        prefix: token ids that all prompts begin with.
    """

    def __init__(
        self,
        encoder: PromptEncoder,
        train: Sequence[Sentence],
        dev: Sequence[Sentence],
        config: TrainerConfig,
        pack_tokens: int,
        replacement: float,
        seed: int,
    ) -> None:
        super().__init__()
        self.config, self.pack_tokens, self.seed, self.encoder = config, pack_tokens, seed, encoder
        self.train_samples, issues = encoder.encode(train)
        self.dev_samples, dev_issues = encoder.encode(dev_sample(dev, config.eval_sample, seed))
        self.issues = issues + dev_issues
        refuse_empty(self.train_samples, self.dev_samples)
        shared = encoder.prefix_length([*self.train_samples, *self.dev_samples])
        self.prefix = self.train_samples[0].prompt[:shared]
        kept = {sample.id for sample in self.train_samples}
        usable = [sentence for sentence in train if sentence.id in kept]
        self._replacement = EntityReplacement(usable, replacement, seed) if replacement > 0 else None

    @property
    def steps(self) -> int:
        """Optimizer steps of an epoch."""
        return -(-len(self.train_samples) // self.config.batch_size)

    def train_dataloader(self) -> StepLoader:
        """The steps of this process, from where training stands."""
        trainer = self.attached
        return self._loader(trainer.global_rank, trainer.world_size, lambda: trainer.global_step)

    def val_dataloader(self) -> DevLoader:
        """This process's share of dev."""
        trainer = self.attached
        return DevLoader(self.dev_samples, len(self.prefix), self.pack_tokens, trainer.global_rank, trainer.world_size)

    def epoch_samples(self, epoch: int) -> Sequence[Sample]:
        """The training samples of an epoch: the same ones, or with some mentions exchanged."""
        if self._replacement is None:
            return self.train_samples
        samples, limit = list(self.train_samples), self.encoder.config.max_length
        changed: dict[int, Sentence] = {}
        for at, (sample, original) in enumerate(zip(samples, self._replacement.sentences, strict=True)):
            sentence = self._replacement.sentence(at, epoch)
            # where the original was cut a replacement could move the cut, and longer surfaces must not bring one
            if sentence is not original and len(sample.text) == len(original.text) and len(sentence.text) <= limit:
                changed[at] = sentence
        encoded, _ = self.encoder.encode(changed.values())
        for at, sample in zip(changed, encoded, strict=True):
            if sample.prompt[: len(self.prefix)] == self.prefix:
                samples[at] = sample
        return samples

    def survey(self, ranks: int) -> PackStatistics:
        """Count what the first epoch holds for `ranks` processes."""
        samples = self.epoch_samples(0)
        sizes: list[int] = []
        for rank in range(ranks):
            for step in self._loader(rank, ranks, lambda: 0):
                sizes += [len(pack.ids) for pack in step.packs]
        return PackStatistics(
            steps=self.steps,
            prefix=len(self.prefix),
            packs=len(sizes),
            pack_tokens=sum(sizes),
            sample_tokens=sum(len(sample.prompt) + len(sample.answer) for sample in samples),
            answer_tokens=sum(len(sample.answer) for sample in samples),
            largest=max(sizes),
        )

    def _loader(self, rank: int, ranks: int, steps_done: Callable[[], int]) -> StepLoader:
        return StepLoader(
            self.epoch_samples,
            len(self.train_samples),
            len(self.prefix),
            self.config.batch_size,
            self.pack_tokens,
            self.seed,
            rank,
            ranks,
            steps_done,
        )
