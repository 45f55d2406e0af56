"""Plan the content and order of an epoch: steps and replaced mentions.

Both depend only on the seed, the epoch and the positions, so that an interrupted epoch can be rebuilt exactly.
`TrainLoader` yields the steps from the current position of training, for every kind of model. `EntityReplacement`
replaces mentions by others of the same category from the training sentences. This teaches a model trained from scratch
to use the context of a name and not only names that it has seen. It costs encoding the corpus again in each epoch
(about a second for 10,000 sentences).
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Generic, TypeVar

from omniner.errors import UserError
from omniner.records import Entity, Sentence

Example = TypeVar("Example")
Step = TypeVar("Step")

EXCHANGED = "sentences given other mentions"  # what progress counts while an epoch is made
_WINDOW = 50  # batches that are sorted together


class EntityReplacement:
    """Replace mentions of the training sentences; sentences whose mentions overlap stay unchanged.

    Args:
        sentences: the training sentences.
        share: probability that a mention is replaced.
        seed: of all choices.
    """

    def __init__(self, sentences: Sequence[Sentence], share: float, seed: int) -> None:
        self.sentences, self.share, self.seed = sentences, share, seed
        pools: dict[str, set[str]] = {}
        for sentence in sentences:
            for entity in sentence.entities:
                pools.setdefault(entity.category, set()).add(entity.text)
        self._pools = {category: sorted(surfaces) for category, surfaces in pools.items()}

    def sentence(self, position: int, epoch: int) -> Sentence:
        """Return the sentence at `position` in this epoch; the same object if nothing was replaced."""
        original = self.sentences[position]
        places = _flat(original.entities)
        if not places:
            return original
        chance = random.Random(f"{self.seed}/{epoch}/{position}")
        pieces: list[str] = []
        entities: list[Entity] = []
        at = length = 0
        for start, end, entity in places:
            surface = entity.text
            if chance.random() < self.share:
                surface = chance.choice(self._pools[entity.category])
            pieces += [original.text[at:start], surface]
            length += start - at
            entities.append(Entity(surface, entity.category, length, length + len(surface)))
            length += len(surface)
            at = end
        text = "".join([*pieces, original.text[at:]])
        if text == original.text:
            return original
        return Sentence(original.id, text, entities, original.post_id, original.meta)


def _flat(entities: Sequence[Entity]) -> list[tuple[int, int, Entity]]:
    """Return the mentions sorted by position; nothing if two share characters or one has no offsets."""
    places = []
    for entity in entities:
        if entity.start is None or entity.end is None:
            return []
        places.append((entity.start, entity.end, entity))
    places.sort(key=lambda place: place[:2])
    overlap = any(left[1] > right[0] for left, right in itertools.pairwise(places))
    return [] if overlap else places


def plan_epoch(lengths: Sequence[int], batch_size: int, seed: int, epoch: int) -> list[list[int]]:
    """Plan the batches of an epoch.

    Args:
        lengths: of the sentences.
        batch_size: sentences of a batch.
        seed, epoch: they determine the order.

    Returns:
        Positions, batch by batch; all batches have `batch_size` of them, except one that may be smaller.
    """
    chance = random.Random(f"{seed}/{epoch}")
    order = list(range(len(lengths)))
    chance.shuffle(order)
    batches = []
    for at in range(0, len(order), batch_size * _WINDOW):
        window = sorted(order[at : at + batch_size * _WINDOW], key=lambda position: lengths[position])
        batches += [window[i : i + batch_size] for i in range(0, len(window), batch_size)]
    chance.shuffle(batches)
    return batches


def plan_longest_first(lengths: Sequence[int], batch_size: int) -> list[list[int]]:
    """Plan batches of similar length, the longest first, so that memory runs out at once or never."""
    order = sorted(range(len(lengths)), key=lambda position: -lengths[position])
    return [order[i : i + batch_size] for i in range(0, len(order), batch_size)]


class TrainLoader(Generic[Example, Step]):
    """The training steps of this process, epoch after epoch; a new iterator begins at the current position of training.

    That position is read from `steps_done` (the trainer's count of optimizer steps, which a checkpoint restores), not
    counted here: a step that was fetched but not trained on before an interruption is yielded again. The sentences of a
    step are the same for any number of processes.

    Args:
        examples: returns the encoded sentences of an epoch; always equally many, in the same order.
        count: their number.
        length: of an example; a step holds examples of similar lengths.
        batch_size: sentences of a step, over all processes.
        seed: of the plan.
        make_step: creates this process's part of a step from the examples of the whole step.
        steps_done: returns the number of optimizer steps since the start of training.
    """

    def __init__(
        self,
        examples: Callable[[int], Sequence[Example]],
        count: int,
        length: Callable[[Example], int],
        batch_size: int,
        seed: int,
        make_step: Callable[[Sequence[Example]], Step],
        steps_done: Callable[[], int],
    ) -> None:
        self._examples, self._count, self._length = examples, count, length
        self._batch_size, self._seed = batch_size, seed
        self._make_step, self._steps_done = make_step, steps_done

    def __len__(self) -> int:
        return -(-self._count // self._batch_size)

    def __iter__(self) -> Iterator[Step]:
        # this runs when the first step is requested: trainers create iterators before they restore their counters
        epoch, first = divmod(self._steps_done(), len(self))
        examples = self._examples(epoch)
        steps = plan_epoch([self._length(example) for example in examples], self._batch_size, self._seed, epoch)
        for positions in steps[first:]:
            yield self._make_step([examples[position] for position in positions])

    def state_dict(self) -> dict[str, Any]:
        """Return nothing; the trainer recognises a resumable loader by this method."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Do nothing, see `state_dict`."""


def sample_dev(sentences: Sequence[Sentence], count: int, seed: int) -> Sequence[Sentence]:
    """Return the sentences that are evaluated during training, in their order: `count` drawn by the seed; 0 = all."""
    if not 0 < count < len(sentences):
        return sentences
    return [sentences[place] for place in sorted(random.Random(f"{seed}/dev").sample(range(len(sentences)), count))]


def refuse_empty(train: Sequence[object], dev: Sequence[object]) -> None:
    """Raise `UserError` for a split of which nothing could be encoded."""
    for name, items in (("train", train), ("dev", dev)):
        if not items:
            raise UserError(f"data ({name})", "no sentence can be used", "See the issues, or choose other data.")
