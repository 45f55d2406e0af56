"""The trainer's view of a corpus for a causal model: optimizer steps in packs to learn from, a share of dev to answer.

In come sentences and a `PromptEncoder`, out come loaders. As for taggers (`datamodule`), all is encoded when the module
is made, so that what is wrong with the data is said at once. Dev is one batch for each process: its packs give the loss
of the gold answers, its samples are answered, and a generator that is given all of them keeps its slots full. With
entity replacement the training sentences of each epoch are made anew and encoded at its start.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytorch_lightning as pl
import torch

from omniner.corpus import taxonomy
from omniner.encoding.augmentation import EntityReplacement
from omniner.encoding.datamodule import dev_sample, refuse_empty
from omniner.encoding.packs import PackedStep, StepLoader
from omniner.encoding.samples import PromptEncoder, Sample
from omniner.errors import UserError
from omniner.records import Sentence
from omniner.schema import TrainerConfig


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
class Survey:
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


class GenerativeData(pl.LightningDataModule):
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
        trainer = self._trainer
        return self._loader(trainer.global_rank, trainer.world_size, lambda: trainer.global_step)

    def val_dataloader(self) -> DevLoader:
        """This process's share of dev."""
        trainer = self._trainer
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

    def survey(self, ranks: int) -> Survey:
        """Count what the first epoch holds for `ranks` processes."""
        samples = self.epoch_samples(0)
        sizes: list[int] = []
        for rank in range(ranks):
            for step in self._loader(rank, ranks, lambda: 0):
                sizes += [len(pack.ids) for pack in step.packs]
        return Survey(
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

    @property
    def _trainer(self) -> pl.Trainer:
        if self.trainer is None:
            raise RuntimeError("loaders are made for a trainer: attach one first")
        return self.trainer


def active_categories(name: str, sentences: Sequence[Sentence]) -> list[str]:
    """The categories that occur in these sentences, in the order of their taxonomy (`data.taxonomy`).

    Raises:
        UserError: there is none.
    """
    found = {entity.category for sentence in sentences for entity in sentence.entities}
    if not found:
        raise UserError("data", "the training split has no entity", "Choose labelled data.")
    known = taxonomy.flat(name, found) if name == "flat" else taxonomy.load(name)
    return [*known.active(sentences), *sorted(found.difference(known.categories))]
