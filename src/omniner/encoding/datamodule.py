"""The trainer's view of a corpus: train and dev loaders over examples that are encoded once.

In come sentences and an `Encoder`, out come loaders. Encoding happens when the module is made, before any training,
so that what is wrong with the data is said at once and `issues` is complete. There are no worker processes: the
tensors are there already, and slicing them costs less than sending them. With entity replacement the training
sentences of each epoch are made anew and encoded at its start.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytorch_lightning as pl

from omniner.encoding.augmentation import EntityReplacement
from omniner.encoding.batching import EvalLoader, TrainLoader
from omniner.encoding.examples import Encoder, Example
from omniner.errors import UserError
from omniner.records import Sentence
from omniner.schema import TrainerConfig


class TaggerData(pl.LightningDataModule):
    """Loaders for training a tagger.

    Args:
        encoder: from sentences to examples.
        train, dev: sentences to learn from, and to choose the checkpoint by.
        config: batch sizes, and how much of dev is evaluated.
        replacement: share of mentions exchanged in each epoch; 0 = none.
        seed: of batches and replacement.

    Attributes:
        issues: what could not be encoded as it was.
        train_examples, dev_examples: the encoded splits.
    """

    def __init__(
        self,
        encoder: Encoder,
        train: Sequence[Sentence],
        dev: Sequence[Sentence],
        config: TrainerConfig,
        replacement: float,
        seed: int,
    ) -> None:
        super().__init__()
        self.config, self.seed, self._encoder = config, seed, encoder
        self.train_examples, issues = encoder.encode(train)
        self.dev_examples, dev_issues = encoder.encode(dev_sample(dev, config.eval_sample, seed))
        self.issues = issues + dev_issues
        refuse_empty(self.train_examples, self.dev_examples)
        kept = {example.id for example in self.train_examples}
        usable = [sentence for sentence in train if sentence.id in kept]
        self._replacement = EntityReplacement(usable, replacement, seed) if replacement > 0 else None

    @property
    def steps(self) -> int:
        """Optimizer steps of an epoch."""
        return -(-len(self.train_examples) // self.config.batch_size)

    def train_dataloader(self) -> TrainLoader:
        """The batches of this process, from where training stands."""
        trainer = self._trainer
        return TrainLoader(
            self.epoch_examples,
            len(self.train_examples),
            self.config.batch_size,
            self.seed,
            trainer.global_rank,
            trainer.world_size,
            lambda: trainer.global_step,
        )

    def val_dataloader(self) -> EvalLoader:
        """This process's share of dev."""
        trainer = self._trainer
        return EvalLoader(self.dev_examples, self.config.eval_batch_size, trainer.global_rank, trainer.world_size)

    def epoch_examples(self, epoch: int) -> Sequence[Example]:
        """The training examples of an epoch: the same ones, or with some mentions exchanged."""
        if self._replacement is None:
            return self.train_examples
        return [self._replaced(at, epoch) for at in range(len(self.train_examples))]

    def _replaced(self, position: int, epoch: int) -> Example:
        assert self._replacement is not None
        original = self.train_examples[position]
        if original.length < len(original.text):
            return original  # cut: a replacement could move the cut
        sentence = self._replacement.sentence(position, epoch)
        if len(sentence.text) != self._encoder.length(sentence.text):
            return original  # longer surfaces must not make it too long
        example, _ = self._encoder.encode_one(sentence)
        return example or original

    @property
    def _trainer(self) -> pl.Trainer:
        if self.trainer is None:
            raise RuntimeError("loaders are made for a trainer: attach one first")
        return self.trainer


def dev_sample(sentences: Sequence[Sentence], count: int, seed: int) -> Sequence[Sentence]:
    """The sentences that are evaluated while training, in their order: `count` of them, drawn by the seed; 0 = all."""
    if not 0 < count < len(sentences):
        return sentences
    return [sentences[place] for place in sorted(random.Random(f"{seed}/dev").sample(range(len(sentences)), count))]


def refuse_empty(train: Sequence[object], dev: Sequence[object]) -> None:
    """A split of which nothing could be encoded is the user's mistake."""
    for name, items in (("train", train), ("dev", dev)):
        if not items:
            raise UserError(f"data ({name})", "no sentence can be used", "See the issues, or choose other data.")
