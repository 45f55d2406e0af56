"""The training and dev data of a causal model as steps of packs, for Lightning.

`GenerativeData` encodes all sentences when it is created, so that errors in the data are reported at once. Dev is one
batch for each process: a decoder with all sentences keeps its slots full. With entity replacement the training
sentences of each epoch are created and encoded at its start.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch

from omniner.config.model_groups import TrainerConfig
from omniner.llm.samples import PromptEncoder, Sample
from omniner.llm.training.memory import PackSize
from omniner.llm.training.packs import PackedStep, pack_step, suffix_length
from omniner.progress import Progress
from omniner.records import Sentence
from omniner.training.learner import TrainingData
from omniner.training.plans import EXCHANGED, TrainLoader


@dataclass
class DevShare:
    """The part of dev that one process evaluates.

    Attributes:
        samples: to be answered; those of all processes together are dev. May be empty.
        step: the packs of this process's part of the loss, equally many on every process; they hold other samples.
    """

    samples: list[Sample]
    step: PackedStep

    def to(self, device: torch.device | str) -> DevShare:
        """Copy the packs to a device."""
        return replace(self, step=self.step.to(device))


class DevLoader:
    """Yield one process's `DevShare` of dev.

    Args:
        samples: all that are evaluated.
        prefix_length: number of tokens that all prompts share.
        pack_tokens: most tokens of a pack.
        rank: number of this process.
        ranks: number of processes.
    """

    def __init__(self, samples: Sequence[Sample], prefix_length: int, pack_tokens: int, rank: int, ranks: int) -> None:
        # all of dev as one optimizer step, of which only the packs matter
        step = pack_step(samples, prefix_length, pack_tokens, rank, ranks)
        self._share = DevShare(list(samples[rank::ranks]), step)

    def __len__(self) -> int:
        return 1

    def __iter__(self) -> Iterator[DevShare]:
        yield self._share


@dataclass(frozen=True)
class PackStatistics:
    """Counts of an epoch, for reports.

    Attributes:
        steps: number of optimizer steps.
        packs: number of packs of all steps and processes.
        pack_tokens: tokens of all packs, including their prefixes: what is computed.
        sample_tokens: tokens of all prompts and answers: what would be computed one by one.
        answer_tokens: tokens that are learnt.
        largest: the pack with the most tokens.
    """

    steps: int
    packs: int
    pack_tokens: int
    sample_tokens: int
    answer_tokens: int
    largest: PackSize


class GenerativeData(TrainingData[Sample]):
    """Loaders for training a causal model.

    Args:
        encoder: from sentences to samples.
        train, dev, config, replacement, seed: see `TrainingData`.
        pack_tokens: most tokens of a pack.

    Attributes:
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
        super().__init__(encoder.encode, train, dev, config, replacement, seed)
        self.encoder, self.pack_tokens = encoder, pack_tokens
        shared = encoder.prefix_length([*self.train, *self.dev])
        self.prefix = self.train[0].prompt[:shared]

    def train_dataloader(self) -> TrainLoader[Sample, PackedStep]:
        """Return the steps of this process, from the current position of training on."""
        trainer = self.attached
        return self._loader(trainer.global_rank, trainer.world_size, lambda: trainer.global_step, self.epoch_samples)

    def val_dataloader(self) -> DevLoader:
        """Return this process's share of dev."""
        trainer = self.attached
        return DevLoader(self.dev, len(self.prefix), self.pack_tokens, trainer.global_rank, trainer.world_size)

    def epoch_samples(self, epoch: int) -> Sequence[Sample]:
        """Return the training samples of an epoch: unchanged, or with some mentions replaced."""
        if self.replacement is None:
            return self.train
        samples, limit = list(self.train), self.encoder.config.max_length
        changed: dict[int, Sentence] = {}
        progress = Progress(EXCHANGED, len(samples))
        for at, (sample, original) in enumerate(zip(samples, self.replacement.sentences, strict=True)):
            sentence = self.replacement.sentence(at, epoch)
            # if the original was cut, a replacement could move the cut; and longer surfaces must not cause one
            if sentence is not original and len(sample.text) == len(original.text) and len(sentence.text) <= limit:
                changed[at] = sentence
            progress.add(1)
        sources = {sentence.id: self.replacement.sentences[at].text for at, sentence in changed.items()}
        encoded, _ = self.encoder.encode(changed.values(), sources)
        for at, sample in zip(changed, encoded, strict=True):
            if sample.prompt[: len(self.prefix)] == self.prefix:
                samples[at] = sample
        return samples

    def pack_statistics(self, ranks: int) -> PackStatistics:
        """Count the content of the first epoch, divided between `ranks` processes."""
        samples = self.epoch_samples(0)
        sizes = list(self._pack_sizes(samples, ranks))
        return PackStatistics(
            steps=self.steps,
            packs=len(sizes),
            pack_tokens=sum(size.tokens for size in sizes),
            sample_tokens=sum(len(sample.prompt) + len(sample.answer) for sample in samples),
            answer_tokens=sum(len(sample.answer) for sample in samples),
            largest=max(sizes, key=lambda size: size.tokens),
        )

    def _pack_sizes(self, samples: Sequence[Sample], ranks: int) -> Iterator[PackSize]:
        """Yield the sizes of the packs of all processes in the first epoch, which consists of these samples."""
        progress = Progress("steps packed", self.steps * ranks)
        for rank in range(ranks):
            for step in self._loader(rank, ranks, lambda: 0, lambda epoch: samples):
                yield from (PackSize(len(self.prefix), len(pack.ids), len(pack.targets)) for pack in step.packs)
                progress.add(1)

    def _loader(
        self, rank: int, ranks: int, steps_done: Callable[[], int], samples: Callable[[int], Sequence[Sample]]
    ) -> TrainLoader[Sample, PackedStep]:
        prefix_length = len(self.prefix)
        return TrainLoader(
            samples,
            len(self.train),
            length=suffix_length(prefix_length),
            batch_size=self.config.batch_size,
            seed=self.seed,
            make_step=lambda samples: pack_step(samples, prefix_length, self.pack_tokens, rank, ranks),
            steps_done=steps_done,
        )
