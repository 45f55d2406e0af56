"""From sentences to padded batches, with every character accounted for.

A tagger labels characters, a model may read something else. `TextInput` gives named id lists of a text:
`CharacterInput` reads characters and bigrams; `TokenInput` reads subword tokens and adds, for each character, which
token covers it (`token_of`) and where in that token it stands (`place`). The two differ more than one expects:
bert-base-chinese makes one token of a run of emoji and of a Latin word with a capital, and none at all of white space
or a zero-width joiner; XLM-R's kind makes one token of a common word, joins a space to the word behind it and puts
an empty word mark before the first character; byte-level ones cut a rare character into several tokens. So characters
of one token share its state and are told apart by their place, and a character without a token has place `UNCOVERED`
and no state. Offsets come from the tokenizer; nothing is matched by spelling, so normalisation (lower case, NFC, full
width) does no harm. Where two neighbours look the same to the model all the same, a gold mention that begins or ends
between them is an issue (`unclear-boundary`).

A `Vocabulary` has one id per character of the training texts and one per pair of neighbours, the two edges of a text
counted (L characters make L + 1 bigrams). Ids follow the code points, so the same text always makes the same ids.
Bigrams are most of a small model's parameters (about 40 thousand for CLUENER) and worth it: without pretrained
weights they are the only sign of where words are.

A sentence that is too long is a mistake, is left out, or is cut, as `encoding.on_too_long` says; each such sentence
and each gold mention beyond the cut is an issue, and so is gold that the head cannot express. Only training is poorer
for it: scoring compares with the sentence's own entities. All is encoded before any training, so that what is wrong
with the data is said at once; there are no worker processes, since slicing tensors costs less than sending them.

The batches of an epoch follow from the seed, the epoch and the lengths alone. Each process takes every n-th sentence
of each batch, and an epoch can begin at any batch: two processes make the same steps as one, a resumed run the same
as an uninterrupted one. Sorting by length within windows of some batches keeps padding low (2.5 % of CLUENER in
batches of 32) while sentences still meet other neighbours in each epoch.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from tokenizers import Encoding, Regex, Tokenizer, models, pre_tokenizers, processors
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from omniner.config.model_groups import EncodingConfig, TrainerConfig
from omniner.errors import UserError
from omniner.records import Entity, Issue, Sentence
from omniner.taggers.heads import LeftOut, Span, TagScheme, fit_spans
from omniner.training.learner import (
    EntityReplacement,
    TrainingData,
    plan_epoch,
    plan_longest_first,
    refuse_empty,
    sample_dev,
)

UNCOVERED, SINGLE, FIRST, INNER, LAST = range(5)
"""Where a character stands in its token; INNER is the second of three or more."""
PLACES = 16
"""The places above, then those of the third character, the fourth and so on; the last stands for all further ones."""
_PLACES_BEFORE = 5  # of checkpoints that do not say: all between the first and the last character were INNER

_SURROGATE = re.compile("[\ud800-\udfff]")

Inputs = dict[str, list[int]]


class TextInput(Protocol):
    """What turns texts into the inputs of one kind of model.

    Attributes:
        kind: names the class in a checkpoint.
    """

    kind: str

    def encode(self, text: str) -> Inputs:
        """Return named lists of ids; the model of the same kind knows the names."""

    def fitting(self, text: str) -> int:
        """Return how many characters of `text` the model can take; all of them, unless there are too many tokens."""

    def is_clear(self, inputs: Inputs, at: int) -> bool:
        """Return whether the characters before and at `at` are not the same to the model; text ends are clear."""

    def to_json(self) -> dict[str, Any]:
        """Return everything that `text_input_from_json` needs, in plain values."""


class CharacterInput:
    """Characters and bigrams of a `Vocabulary`; any length fits."""

    kind = "characters"

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.vocabulary = vocabulary

    def encode(self, text: str) -> Inputs:
        """Return `characters`, L ids, and `bigrams`, L + 1 ids, where the vocabulary has any."""
        inputs = {"characters": self.vocabulary.character_ids(text)}
        if self.vocabulary.bigrams:
            inputs["bigrams"] = self.vocabulary.bigram_ids(text)
        return inputs

    def fitting(self, text: str) -> int:
        """Return the length of the text."""
        return len(text)

    def is_clear(self, inputs: Inputs, at: int) -> bool:
        """Return True: each character has a state of its own."""
        return True

    def to_json(self) -> dict[str, Any]:
        """Return the vocabulary, with the kind of this input."""
        return {"kind": self.kind, "vocabulary": self.vocabulary.to_json()}


class TokenInput:
    """Subword tokens of a fast tokenizer, aligned to characters.

    Args:
        tokenizer: of the `tokenizers` library; its own truncation and padding are switched off.
        max_tokens: the model's limit, its special tokens included.
        places: how many places in a token the model knows.
    """

    kind = "tokens"

    def __init__(self, tokenizer: Tokenizer, max_tokens: int, places: int = PLACES) -> None:
        tokenizer.no_truncation()
        tokenizer.no_padding()
        tokenizer.encode_special_tokens = True  # a text that holds `[SEP]` or `</s>` means these characters
        self.tokenizer, self.max_tokens, self.places = tokenizer, max_tokens, places

    def encode(self, text: str) -> Inputs:
        """Return `tokens` and `attention`, S ids and ones, and `token_of` and `place`, L numbers each."""
        encoding = self._encoding(text)
        pairs = zip(encoding.offsets, encoding.special_tokens_mask, strict=True)
        covers = [(0, 0) if special else offsets for offsets, special in pairs]
        token_of, place = align_tokens(text, encoding.tokens, covers, self.places)
        tokens = list(encoding.ids)
        return {"tokens": tokens, "attention": [1] * len(tokens), "token_of": token_of, "place": place}

    def fitting(self, text: str) -> int:
        """Return the length of the longest prefix, in characters, whose tokens the model can take."""
        length = len(text)
        while True:
            encoding = self._encoding(text[:length])
            excess = len(encoding.ids) - self.max_tokens
            if excess <= 0 or length == 0:
                return length
            real = [o for o, s in zip(encoding.offsets, encoding.special_tokens_mask, strict=True) if not s]
            # Cut before the first token that is too much. A cut text may be tokenised in another way: look again.
            length = min(real[-excess][0], length - 1) if excess <= len(real) else 0

    def _encoding(self, text: str) -> Encoding:
        """The tokens of a text; half of a surrogate pair, which is no character, counts as an unknown one."""
        return self.tokenizer.encode(_SURROGATE.sub("\ufffd", text))

    def is_clear(self, inputs: Inputs, at: int) -> bool:
        """Return whether the two characters have different tokens or places."""
        places, tokens = inputs["place"], inputs["token_of"]
        if not 0 < at < len(places):
            return True
        same_token = tokens[at - 1] == tokens[at] or places[at] == UNCOVERED
        return places[at - 1] != places[at] or not same_token

    def to_json(self) -> dict[str, Any]:
        """Return the whole tokenizer as its own JSON text."""
        tokenizer = self.tokenizer.to_str()
        return {"kind": self.kind, "tokenizer": tokenizer, "max_tokens": self.max_tokens, "places": self.places}


_WORD_MARK = "\u2581\u0120"  # what SentencePiece and byte-level tokenizers write for the space before a word


def align_tokens(
    text: str, tokens: Sequence[str], offsets: Sequence[tuple[int, int]], places: int
) -> tuple[list[int], list[int]]:
    """Find for each character of a text the token that covers it, and its place in that token.

    For `Hi 好` and the tokens `[CLS] Hi 好 [SEP]` this gives `token_of = [1, 1, 0, 2]` and
    `place = [FIRST, LAST, UNCOVERED, SINGLE]`; the token number of an uncovered character means nothing. Where
    several tokens cover a character (the bytes of a rare one), the first has it, but an empty word mark gives way to
    any other. White space that a token has before its word does not count as its first character: a word looks the
    same with and without it.

    Args:
        text: L characters.
        tokens: as the tokenizer writes them.
        offsets: what each token covers of the text; nothing for special ones.
        places: how many places there are.

    Returns:
        L token numbers and L places.
    """
    token_of, place = [0] * len(text), [UNCOVERED] * len(text)
    inner = [INNER, *range(LAST + 1, places)]
    numbers = sorted(range(len(tokens)), key=lambda number: not tokens[number].strip(_WORD_MARK))
    for number in numbers:
        start, end = offsets[number]
        while start < end - 1 and _is_blank(text[start]):
            start += 1
        free = [at for at in range(start, end) if place[at] == UNCOVERED]
        for index, at in enumerate(free):
            token_of[at] = number
            if len(free) == 1:
                place[at] = SINGLE
            elif index == 0:
                place[at] = FIRST
            elif index == len(free) - 1:
                place[at] = LAST
            else:
                place[at] = inner[min(index, len(inner)) - 1]
    return token_of, place


def _is_blank(character: str) -> bool:
    """White space, and what tokenizers take for it: zero-width and control characters."""
    return unicodedata.category(character) in ("Zs", "Zl", "Zp", "Cc", "Cf")


def character_tokenizer(vocabulary: Vocabulary) -> Tokenizer:
    """Build a BERT-like tokenizer whose tokens are the characters of `vocabulary`, for models built from nothing."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *vocabulary.characters]
    ids = {word: number for number, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", ids["[SEP]"]), ("[CLS]", ids["[CLS]"]))
    return tokenizer


def text_input_from_json(item: dict[str, Any]) -> TextInput:
    """Rebuild the input that a checkpoint holds."""
    if item["kind"] == CharacterInput.kind:
        return CharacterInput(Vocabulary.from_json(item["vocabulary"]))
    places = item.get("places", _PLACES_BEFORE)
    return TokenInput(Tokenizer.from_str(item["tokenizer"]), item["max_tokens"], places)


PAD, UNKNOWN = 0, 1
_FIRST = 2
# Stands for the outside at both edges of a text. A control character, so no bigram of real text looks like it.
EDGE = "\x02"


class Vocabulary:
    """Ids of characters and bigrams; id 0 is padding, id 1 whatever is not known.

    Ids follow the code points, not the order of the corpus or of a hash: the same text always makes the same ids.

    Attributes:
        characters: known characters; the id of the first is 2.
        bigrams: known bigrams, likewise; empty where a model has no bigram embeddings.
    """

    def __init__(self, characters: Sequence[str], bigrams: Sequence[str]) -> None:
        self.characters, self.bigrams = tuple(characters), tuple(bigrams)
        self._character_ids = {item: number for number, item in enumerate(self.characters, _FIRST)}
        self._bigram_ids = {item: number for number, item in enumerate(self.bigrams, _FIRST)}

    @classmethod
    def build(cls, texts: Iterable[str], min_count: int, bigrams: bool) -> Vocabulary:
        """Collect what stands at least `min_count` times in `texts`."""
        characters: Counter[str] = Counter()
        pairs: Counter[str] = Counter()
        for text in texts:
            characters.update(text)
            if bigrams:
                pairs.update(_pairs(text))
        return cls(_frequent(characters, min_count), _frequent(pairs, min_count))

    @property
    def character_rows(self) -> int:
        """Rows that an embedding table of the characters needs."""
        return _FIRST + len(self.characters)

    @property
    def bigram_rows(self) -> int:
        """Rows that an embedding table of the bigrams needs."""
        return _FIRST + len(self.bigrams)

    def character_ids(self, text: str) -> list[int]:
        """Return one id per character."""
        return [self._character_ids.get(character, UNKNOWN) for character in text]

    def bigram_ids(self, text: str) -> list[int]:
        """Return one id per pair of neighbours, edges included: `len(text) + 1` of them."""
        return [self._bigram_ids.get(pair, UNKNOWN) for pair in _pairs(text)]

    def to_json(self) -> dict[str, Any]:
        """Return plain lists, to be stored with a checkpoint."""
        return {"characters": list(self.characters), "bigrams": list(self.bigrams)}

    @classmethod
    def from_json(cls, item: dict[str, Any]) -> Vocabulary:
        """Rebuild what `to_json` gave."""
        return cls(item["characters"], item["bigrams"])


def _pairs(text: str) -> Iterable[str]:
    return map(str.__add__, EDGE + text, text + EDGE)


def _frequent(counts: Counter[str], min_count: int) -> list[str]:
    return sorted(item for item, count in counts.items() if count >= min_count)


@dataclass(slots=True)
class EncodedSentence:
    """One sentence, ready for a model.

    Attributes:
        id, text: of the sentence, whole.
        length: characters that the model sees; fewer than `len(text)` where the text was cut.
        inputs: named ids, 1-D, of the model's kind of input.
        gold: every gold entity, learnable or not.
        spans: the gold spans that can be learnt.
        tags: [length] BIOES tag ids of the spans that tags can express.
    """

    id: str
    text: str
    length: int
    inputs: dict[str, Tensor]
    gold: list[Entity]
    spans: list[Span]
    tags: Tensor


class SentenceEncoder:
    """Encodes sentences for one model: its input, its tags, its limits.

    Args:
        inputs: makes the ids.
        scheme: the active categories and their tags.
        config: limits of length.
        max_span: longest span of a head that scores spans; None for heads that read tags.
    """

    def __init__(self, inputs: TextInput, scheme: TagScheme, config: EncodingConfig, max_span: int | None) -> None:
        self.inputs, self.scheme, self.config, self.max_span = inputs, scheme, config, max_span
        self._ids = {category: number for number, category in enumerate(scheme.categories)}

    def encode(self, sentences: Iterable[Sentence]) -> tuple[list[EncodedSentence], list[Issue]]:
        """Encode sentences, in their order; those that are left out are named by an issue.

        Raises:
            UserError: a sentence is too long, and `encoding.on_too_long` is `fail`.
        """
        sentences = list(sentences)
        if self.config.on_too_long == "fail":
            self._refuse_long(sentences)
        examples: list[EncodedSentence] = []
        issues: list[Issue] = []
        for sentence in sentences:
            example, found = self.encode_one(sentence)
            issues += found
            if example is not None:
                examples.append(example)
        return examples, issues

    def encode_one(self, sentence: Sentence) -> tuple[EncodedSentence | None, list[Issue]]:
        """Encode one sentence; there is no example where it is empty, or too long and not to be cut."""
        if not sentence.text:
            return None, [Issue("empty-text", "nothing to tag", id=sentence.id)]
        length = self.length(sentence.text)
        issues: list[Issue] = []
        if length < len(sentence.text):
            message = f"{len(sentence.text)} characters, {length} fit"
            if self.config.on_too_long != "truncate" or length == 0:
                return None, [Issue("too-long-skipped", message, id=sentence.id)]
            issues.append(Issue("too-long-truncated", message, id=sentence.id))
        inputs = self.inputs.encode(sentence.text[:length])
        spans = self._learnable(sentence, length, issues)
        issues += self._unclear(sentence, spans, inputs)
        tags, left_out = self.scheme.encode(spans, length)
        if self.max_span is not None:
            _, left_out = fit_spans(spans, length, len(self.scheme.categories), self.max_span)
        issues += [self._left_out(sentence, item) for item in left_out]
        tensors = {name: torch.tensor(ids) for name, ids in inputs.items()}
        gold_tags = torch.tensor(tags, dtype=torch.long)
        example = EncodedSentence(sentence.id, sentence.text, length, tensors, sentence.entities, spans, gold_tags)
        return example, issues

    def length(self, text: str) -> int:
        """Return how many characters of the text the model sees, before it is asked whether it may be cut."""
        return self.inputs.fitting(text[: self.config.max_length])

    def _refuse_long(self, sentences: Sequence[Sentence]) -> None:
        long = [s.id for s in sentences if s.text and self.length(s.text) < len(s.text)]
        if long:
            names = ", ".join(long[:10]) + (", ..." if len(long) > 10 else "")
            raise UserError(
                "encoding.max_length",
                f"{len(long)} sentences are longer than {self.config.max_length} characters or than the model takes: "
                f"{names}",
                "Raise encoding.max_length (up to the model's limit), or set encoding.on_too_long=truncate or skip.",
            )

    def _learnable(self, sentence: Sentence, length: int, issues: list[Issue]) -> list[Span]:
        """The distinct spans with offsets, of active categories, before the cut."""
        spans: set[Span] = set()
        for surface, category, start, end in sentence.entities:
            shown = f"{surface!r} ({category})"
            if start is None or end is None:
                issues.append(Issue("no-offsets", f"{shown}: a tagger cannot learn it", id=sentence.id))
            elif category not in self._ids:
                issues.append(Issue("inactive-category", f"{shown}: not in the training split", id=sentence.id))
            elif end > length:
                issues.append(Issue("gold-truncated", f"{shown}: the text is cut at {length}", id=sentence.id))
            else:
                spans.add((start, end, self._ids[category]))
        return sorted(spans)

    def _unclear(self, sentence: Sentence, spans: Sequence[Span], inputs: Inputs) -> Iterator[Issue]:
        """Issues about spans that begin or end between characters which are the same to the model."""
        for start, end, category in spans:
            if not (self.inputs.is_clear(inputs, start) and self.inputs.is_clear(inputs, end)):
                shown = f"{sentence.text[start:end]!r} ({self.scheme.categories[category]}) at {start}"
                why = "it begins or ends within one token, where the model sees no difference between characters"
                yield Issue("unclear-boundary", f"{shown}: {why}", id=sentence.id)

    def _left_out(self, sentence: Sentence, left_out: LeftOut) -> Issue:
        """The issue about a span that the head cannot express."""
        (start, end, category), code, kept = left_out
        shown = f"{sentence.text[start:end]!r} ({self.scheme.categories[category]})"
        why = "cannot be expressed by this head"
        if kept:
            why += f" beside {sentence.text[kept[0] : kept[1]]!r} ({self.scheme.categories[kept[2]]})"
        return Issue(code, f"{shown} at {start}: {why}", id=sentence.id)


@dataclass
class Batch:
    """The sentences of one step that this process works on (B of them, L characters at most).

    Attributes:
        inputs: what the backbone reads; each [B, its own length], padded with 0.
        mask: bool [B, L], true for characters.
        tags: [B, L] BIOES tag ids, 0 where padded.
        spans: the learnable gold spans of each sentence.
        gold: all gold entities of each sentence.
        ids, texts: of the sentences.
        rows: [B] places of these sentences in the whole step.
        step_sentences: sentences of the whole step, over all processes.
        step_length: characters of the longest sentence of the whole step.
        weight: 1, or 0 where the step is too small for this process to have a sentence of its own: the batch
            then repeats one, which must not count.
    """

    inputs: dict[str, Tensor]
    mask: Tensor
    tags: Tensor
    spans: list[list[Span]]
    gold: list[list[Entity]]
    ids: list[str]
    texts: list[str]
    rows: Tensor
    step_sentences: int
    step_length: int
    weight: int

    def to(self, device: torch.device | str, **options: Any) -> Batch:
        """Return the same batch on another device."""
        inputs = {name: tensor.to(device, **options) for name, tensor in self.inputs.items()}
        mask, tags = self.mask.to(device, **options), self.tags.to(device, **options)
        return replace(self, inputs=inputs, mask=mask, tags=tags)


def collate(examples: Sequence[EncodedSentence], rank: int, ranks: int) -> Batch:
    """Pad one process's part of a step: the sentences `rank`, `rank + ranks`, ... of `examples`.

    Args:
        examples: those of the whole step, at least one.
        rank, ranks: this process, and how many there are.
    """
    rows = list(range(rank, len(examples), ranks))
    weight = 1 if rows else 0
    rows = rows or [0]
    part = [examples[row] for row in rows]
    lengths = torch.tensor([example.length for example in part])
    place = torch.arange(int(lengths.max()))
    return Batch(
        inputs={name: _pad([example.inputs[name] for example in part]) for name in part[0].inputs},
        mask=place[None] < lengths[:, None],
        tags=_pad([example.tags for example in part]),
        spans=[example.spans for example in part],
        gold=[example.gold for example in part],
        ids=[example.id for example in part],
        texts=[example.text for example in part],
        rows=torch.tensor(rows),
        step_sentences=len(examples),
        step_length=max(example.length for example in examples),
        weight=weight,
    )


def _pad(rows: list[Tensor]) -> Tensor:
    return pad_sequence(rows, batch_first=True)


class TrainLoader:
    """The batches of this process, epoch after epoch; a new iterator begins where training stands.

    Where it stands is read from `steps_done` (the trainer's count of optimizer steps, which a checkpoint restores),
    not counted here: a batch that was fetched but not learnt from when a run was interrupted is served again.

    Args:
        examples: gives the examples of an epoch; always as many, in the same order.
        count: how many.
        batch_size: sentences of a step, over all processes.
        seed: of the plan.
        rank, ranks: this process, and how many there are.
        steps_done: optimizer steps since the start of training.
    """

    def __init__(
        self,
        examples: Callable[[int], Sequence[EncodedSentence]],
        count: int,
        batch_size: int,
        seed: int,
        rank: int,
        ranks: int,
        steps_done: Callable[[], int],
    ) -> None:
        self._examples, self._count, self._batch_size, self._seed = examples, count, batch_size, seed
        self._rank, self._ranks, self._steps_done = rank, ranks, steps_done

    def __len__(self) -> int:
        return -(-self._count // self._batch_size)

    def __iter__(self) -> Iterator[Batch]:
        # this runs when the first batch is asked for: trainers make iterators before they restore their counters
        epoch, first = divmod(self._steps_done(), len(self))
        examples = self._examples(epoch)
        batches = plan_epoch([example.length for example in examples], self._batch_size, self._seed, epoch)
        for positions in batches[first:]:
            yield collate([examples[position] for position in positions], self._rank, self._ranks)

    def state_dict(self) -> dict[str, Any]:
        """Return nothing; the trainer takes a loader with this method for one that can resume."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Do nothing, see `state_dict`."""


class EvalLoader:
    """Longest-first batches, each shared by the processes, so that all have as many and none is served twice.

    Args:
        examples: all of them.
        batch_size: sentences of a batch, over all processes.
        rank, ranks: this process, and how many there are.
    """

    def __init__(self, examples: Sequence[EncodedSentence], batch_size: int, rank: int, ranks: int) -> None:
        self._examples, self._rank, self._ranks = examples, rank, ranks
        self._plan = plan_longest_first([example.length for example in examples], batch_size)

    def __len__(self) -> int:
        return len(self._plan)

    def __iter__(self) -> Iterator[Batch]:
        for positions in self._plan:
            yield collate([self._examples[position] for position in positions], self._rank, self._ranks)


class TaggerData(TrainingData):
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
        encoder: SentenceEncoder,
        train: Sequence[Sentence],
        dev: Sequence[Sentence],
        config: TrainerConfig,
        replacement: float,
        seed: int,
    ) -> None:
        super().__init__()
        self.config, self.seed, self._encoder = config, seed, encoder
        self.train_examples, issues = encoder.encode(train)
        self.dev_examples, dev_issues = encoder.encode(sample_dev(dev, config.eval_sample, seed))
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
        """Return the batches of this process, from where training stands."""
        trainer = self.attached
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
        """Return this process's share of dev."""
        trainer = self.attached
        return EvalLoader(self.dev_examples, self.config.eval_batch_size, trainer.global_rank, trainer.world_size)

    def epoch_examples(self, epoch: int) -> Sequence[EncodedSentence]:
        """Return the training examples of an epoch: the same ones, or with some mentions exchanged."""
        if self._replacement is None:
            return self.train_examples
        return [self._replaced(at, epoch) for at in range(len(self.train_examples))]

    def _replaced(self, position: int, epoch: int) -> EncodedSentence:
        assert self._replacement is not None
        original = self.train_examples[position]
        if original.length < len(original.text):
            return original  # cut: a replacement could move the cut
        sentence = self._replacement.sentence(position, epoch)
        if len(sentence.text) != self._encoder.length(sentence.text):
            return original  # longer surfaces must not make it too long
        example, _ = self._encoder.encode_one(sentence)
        return example or original
