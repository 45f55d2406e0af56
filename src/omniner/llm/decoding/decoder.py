"""Decode answers of a causal model in this process, many at a time: prompts in, answers out as they finish.

The common prefix of all prompts is computed once and stored once (`prefix_cache`). Sentences are decoded in parallel in
`decoding.slots` slots. When an answer ends, the next sentence takes its slot in the very next forward call, whose
single flat sequence holds one or more tokens of each running answer and all tokens of new sentences, without padding.
Compared with `generate` on padded batches this is an order of magnitude faster, with the same tokens in float32
(`experiments/decoding_speed`).

Longest prompts come first, so that memory runs out at once or never, and the last running answers are short. The order
is cut into groups; slots run empty at the end of a group, which costs some percent. This allows an exact resume: what a
group computes depends only on its own requests, so an interrupted group is decoded again, batch by batch the same, and
only the missing answers are returned.

Sampling (`decoding.temperature` above 0) does not depend on the batch either: a row's random number is a hash of the
seed, the sentence's id and the position in the answer. So a sentence gets the same answer in any batch, on any device,
before and after an interruption.

A model that repeats itself would occupy its slot up to the limit of tokens, and often delay the whole batch. A free
answer ends when it has repeated the same thing more often in a row than any answer about its sentence can: an entity is
listed at most as often as it occurs, so never more often than the sentence's most frequent character.

Several threads may use one model. While it generates it has another attention implementation, so the threads take
turns, every two seconds if necessary.
"""

from __future__ import annotations

import contextlib
import hashlib
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from omniner.config.model_groups import LONGEST_ANSWER, DecodingConfig
from omniner.errors import UserError
from omniner.llm.decoding.constraint import Constraint, ConstraintState, EarlyEnd
from omniner.llm.decoding.prefix_cache import (
    CACHE_ATTENTION,
    FULL_ATTENTION_ADVICE,
    PrefixCache,
    check_supported,
    head_sizes,
    register_cached_attention,
)
from omniner.pretrained import base_model

if TYPE_CHECKING:
    from omniner.llm.chat_tokenizer import ChatTokenizer


# Sentences of a group, per slot: the most work that is repeated after an interruption. The last answers of a group
# leave slots empty: groups of 4 instead of 16 cost a fifth more CPU time.
_GROUP = 16
_SECONDS = 2.0  # seconds between two batches of answers: finished ones are saved, and the caller can report progress
_LONGEST_CYCLE = 64  # tokens: the longest unit of repetition that is detected
_LEAST_REPEATS, _LEAST_LOOP = 8, 48  # repetitions in a row, and their tokens: fewer may be an answer's form
_LOOK_EVERY = 16  # tokens
_FRESH_TOKENS = 1024  # once new sentences bring this many tokens to a forward call, others wait: bounds memory


class DecodingRequest(NamedTuple):
    """A request: the whole prompt in tokens, and the sentence in it, which a constraint needs.

    `limit` is the most tokens of the answer if `decoding.max_new_tokens` does not set it.
    """

    id: str
    prompt: list[int]
    text: str
    limit: int | None = None


AnswerEnd = Literal["model", "limit", "loop"]
"""What ended an answer: the model, the limit of tokens, or a detected repetition."""


class Answer(NamedTuple):
    """The model's answer, without the token that ends it.

    Attributes:
        id: of the request.
        tokens: of the answer.
        text: the same as text.
        end: how it ended.
        log_probabilities: of each token, among those that it was chosen from (0 if it was forced); empty unless
            `decoding.scores` asks for them. The temperature does not change them.
    """

    id: str
    tokens: list[int]
    text: str
    end: AnswerEnd
    log_probabilities: Sequence[float] = ()


@dataclass(slots=True)
class _Row:
    """An unfinished answer.

    Attributes:
        pending: tokens that the model has not seen: the prompt after the prefix, later the newest of the answer.
        limit: most tokens of the answer, including the one that ends it.
        stored: number of tokens in its slot.
        repeats: how often in a row an answer may repeat itself; 0 = no limit.
        end: how it ended; None while it is unfinished.
    """

    request: DecodingRequest
    pending: list[int]
    limit: int
    stops: frozenset[int]
    constraint: ConstraintState | None
    repeats: int = 0
    stored: int = 0
    answer: list[int] = field(default_factory=list)
    log_probabilities: list[float] = field(default_factory=list)
    end: AnswerEnd | None = None

    def take(self, token: int, log_probability: float) -> None:
        """Add a token that was chosen after the model has seen all pending ones."""
        self.stored += len(self.pending)
        self.pending = []
        self._add(token, log_probability)
        self.take_forced()

    def take_forced(self) -> None:
        """Add the tokens that the constraint forces; the model gets them together with the one before."""
        while self.constraint is not None and self.end is None and (tokens := self.constraint.forced()):
            for token in tokens:
                if self.end is None:
                    self._add(token, log_probability=0.0)

    def _add(self, token: int, log_probability: float) -> None:
        if token in self.stops:
            self.end = self._early_end or "model"
            return
        self.answer.append(token)
        self.log_probabilities.append(log_probability)
        self.pending.append(token)
        if self.constraint is not None:
            self.constraint.advance(token)
        if self.repeats and len(self.answer) % _LOOK_EVERY == 0 and repeats_itself(self.answer, self.repeats):
            self.end = "loop"
        elif len(self.answer) == self.limit:
            self.end = self._early_end or "limit"

    @property
    def _early_end(self) -> EarlyEnd:
        return "" if self.constraint is None else self.constraint.ended


class Turns:
    """A fair lock: a thread that releases it gets it again only after a waiting one."""

    def __init__(self) -> None:
        self._door, self._room = threading.Lock(), threading.Lock()

    def __enter__(self) -> None:
        with self._door:  # held by the thread that waits for the room
            self._room.acquire()

    def __exit__(self, *error: object) -> None:
        self._room.release()


_turns: WeakKeyDictionary[nn.Module, Turns] = WeakKeyDictionary()  # by model; not in it, so that it can be copied


class Decoder:
    """Decode requests whose prompts share a prefix, with the weights that the model has when it reads the prefix.

    Args:
        model: a causal language model of transformers, or a PeftModel around one. Whenever `run` has yielded, its mode,
            its attention implementation and its weights are as before.
        chat: defines the tokens that end an answer, and decodes tokens.
        prefix: tokens that every prompt begins with; may be empty.
        config: `slots`, `max_new_tokens`, `temperature`, `top_p` and `scores` are read.
        constraint: restricts the answers; None = no restriction.
        seed: of sampling, if `temperature` is above 0.
        within: returns the context in which the model computes; it is left whenever `run` has yielded.

    Attributes:
        prefix, config, constraint: as given.
        unfinished: number of unfinished answers, whenever `run` has yielded.
        repeated: number of answers to requests in `done` that `run` has computed again.

    Raises:
        UserError: `prefix_cache` does not support this kind of model.
    """

    def __init__(
        self,
        model: nn.Module,
        chat: ChatTokenizer,
        prefix: list[int],
        config: DecodingConfig,
        constraint: Constraint | None,
        seed: int,
        within: Callable[[], AbstractContextManager[None]] = contextlib.nullcontext,
    ) -> None:
        self._within = within
        self._model, self._chat, self.prefix, self.config = model, chat, prefix, config
        self.constraint, self._seed = constraint, seed
        self._slots = config.usual_slots
        self._base = base_model(model)
        check_supported(self._base)
        self._turns = _turns.setdefault(self._base, Turns())
        self._cache: PrefixCache | None = None
        self.unfinished = self.repeated = 0

    def run(self, requests: Sequence[DecodingRequest], done: frozenset[str] = frozenset()) -> Generator[list[Answer]]:
        """Answer all requests except those in `done`, in no particular order.

        The bits of an answer depend on those computed beside it. So requests are answered in groups that do not depend
        on `done`, and a group that was interrupted is answered again as a whole.

        Args:
            requests: with different ids; for an exact resume the same as before, including finished ones.
            done: ids of requests whose answers are not needed any more.

        Yields:
            Every two seconds the finished answers; an empty list while long prompts are read.

        Raises:
            UserError: a prompt leaves no room for an answer, the model's attention is of an unknown kind, or the GPU
                has too little memory.
        """
        self._check(requests)
        order = sorted(requests, key=lambda request: -len(request.prompt))
        size = _GROUP * self._slots
        self.repeated = 0
        for at in range(0, len(order), size):
            group = order[at : at + size]
            if all(request.id in done for request in group):
                continue
            with contextlib.closing(self._decode(group)) as decoded:
                for answers in decoded:
                    fresh = [answer for answer in answers if answer.id not in done]
                    self.repeated += len(answers) - len(fresh)
                    yield fresh

    @property
    def progress_note(self) -> str:
        """What `run` does beside the answers that it has yielded, for a line of progress."""
        again = f", {self.repeated:,} computed again" if self.repeated else ""
        return f"{self.unfinished} under way{again}"

    def read_prefix(self) -> None:
        """Read the prefix now, if this has not been done; otherwise the first `run` does, and its answers seem slow."""
        with self._attached():
            pass

    def _check(self, requests: Sequence[DecodingRequest]) -> None:
        if len({request.id for request in requests}) < len(requests):
            raise ValueError("requests must have different ids")
        length = len(self.prefix)
        for request in requests:
            if request.prompt[:length] != self.prefix or len(request.prompt) == length:
                raise ValueError(f"the prompt of {request.id} must begin with the prefix and go on after it")
            if self._room(request) < 1:
                raise UserError(
                    "encoding.max_length",
                    f"the prompt of sentence {request.id} has {len(request.prompt)} tokens, and the model takes "
                    f"{self._base.config.max_position_embeddings} with the answer",
                    "Lower it, with encoding.on_too_long=truncate or skip, or take a shorter prompt.",
                )

    def _room(self, request: DecodingRequest) -> int:
        """Return the most tokens of an answer: more would be at positions that the model does not support."""
        positions = getattr(self._base.config, "max_position_embeddings", None)
        most = self.config.max_new_tokens or request.limit or LONGEST_ANSWER
        return most if positions is None else min(most, positions - len(request.prompt))

    def _decode(self, group: list[DecodingRequest]) -> Generator[list[Answer]]:
        """Answer a group; the model is restored whenever answers are yielded."""
        waiting, active = deque(group), list[_Row]()
        try:
            while waiting or active:
                answers: list[Answer] = []
                began = time.monotonic()
                with self._attached() as cache:
                    cache.slots = min(self._slots, len(group))
                    while waiting or active:
                        answers += self._advance(cache, waiting, active)
                        if time.monotonic() - began >= _SECONDS:
                            break
                self.unfinished = len(active)
                yield answers
        finally:
            self.unfinished = 0
            if self._cache is not None:
                self._cache.release()

    @contextlib.contextmanager
    def _attached(self) -> Iterator[PrefixCache]:
        """Put the model into evaluation mode with the attention of `prefix_cache` for a few steps."""
        with self._turns, self._within():
            register_cached_attention()
            training = [module for module in self._model.modules() if module.training]
            before = self._base.config._attn_implementation
            self._model.eval()
            self._base.set_attn_implementation(CACHE_ATTENTION)
            try:
                if self._cache is None:
                    self._cache = self._read_prefix()
                yield self._cache
            except torch.OutOfMemoryError as error:
                found = f"{self._slots} sentences side by side do not fit into the GPU's memory"
                raise UserError("decoding.slots", found, "Lower it, or decoding.max_new_tokens.") from error
            finally:
                self._base.set_attn_implementation(before)
                for module in training:
                    module.training = True

    @torch.no_grad()
    def _read_prefix(self) -> PrefixCache:
        device = self._base.device
        cache = PrefixCache(len(self.prefix), self._slots, head_sizes(self._base.config).group_size, device)
        if self.prefix:
            ids, positions = torch.tensor([self.prefix], device=device), torch.arange(len(self.prefix), device=device)
            self._forward(cache, ids, positions[None], torch.tensor([0], device=device))
        return cache

    def _advance(self, cache: PrefixCache, waiting: deque[DecodingRequest], active: list[_Row]) -> list[Answer]:
        """Make one forward call and return the answers that end with it; `active[n]` is always in slot n."""
        answers = self._admit(waiting, active)
        if active:
            for row, token, log_probability in zip(active, *self._next_tokens(cache, active), strict=True):
                row.take(token, log_probability)
            answers += [self._answer(row, row.end) for row in active if row.end is not None]
            self._close_gaps(cache, active)
        return answers

    def _admit(self, waiting: deque[DecodingRequest], active: list[_Row]) -> list[Answer]:
        """Fill free slots, and return answers for which the constraint leaves no choice at all."""
        answers, fresh = [], 0
        while waiting and len(active) < self._slots and fresh < _FRESH_TOKENS:
            request = waiting.popleft()
            room = self._room(request)
            state = None if self.constraint is None else self.constraint.start(request.text, room)
            repeats = 0 if state else most_repeats(request.text)  # a guided answer always ends in form
            row = _Row(request, request.prompt[len(self.prefix) :], room, self._chat.stops, state, repeats)
            row.take_forced()
            if row.end is None:
                active.append(row)
                fresh += len(row.pending)
            else:
                answers.append(self._answer(row, row.end))
        return answers

    def _answer(self, row: _Row, end: AnswerEnd) -> Answer:
        known = row.log_probabilities if self.config.gives_scores else ()
        return Answer(row.request.id, row.answer, self._chat.decode(row.answer), end, known)

    @torch.no_grad()
    def _next_tokens(self, cache: PrefixCache, active: list[_Row]) -> tuple[list[int], list[float]]:
        """Choose the next token of each row; return them, and their log-probabilities (0 if they are not needed)."""
        step = cache.begin([row.stored for row in active], [row.pending for row in active])
        logits = self._forward(cache, step.ids, step.positions, step.last).float()
        if self.constraint is not None:
            self.constraint.mask([row.constraint for row in active], logits)
        tokens = self._choose(logits, active)
        if not self.config.gives_scores:
            return tokens.tolist(), [0.0] * len(active)
        chosen = logits.gather(1, tokens[:, None])[:, 0] - logits.logsumexp(1)
        return tokens.tolist(), chosen.tolist()

    def _choose(self, logits: Tensor, active: list[_Row]) -> Tensor:
        """Return the likeliest token of each row, or one that is drawn."""
        if not self.config.temperature:
            return logits.argmax(1)
        draws = [uniform_draw(self._seed, row.request.id, len(row.answer)) for row in active]
        drawn = torch.tensor(draws, dtype=torch.float64).to(logits.device, non_blocking=True)
        return sample_tokens(logits, self.config.temperature, self.config.top_p, drawn)

    def _forward(self, cache: PrefixCache, ids: Tensor, positions: Tensor, keep: Tensor) -> Tensor:
        """Compute the logits [len(keep), V] after the tokens at `keep` among `ids` [1, T]."""
        cache.calls = 0
        result = self._model(
            input_ids=ids, position_ids=positions, use_cache=False, logits_to_keep=keep, prefix_cache=cache
        )
        if cache.calls != self._base.config.num_hidden_layers:
            raise UserError(
                "model.path",
                f"{cache.calls} of {self._base.config.num_hidden_layers} layers of {type(self._base).__name__} take "
                "their attention from transformers' AttentionInterface",
                FULL_ATTENTION_ADVICE,
            )
        logits: Tensor = result.logits[0]
        return logits

    def _close_gaps(self, cache: PrefixCache, active: list[_Row]) -> None:
        """Drop finished rows; the last ones move into their slots, so that used slots are always the first."""
        count = sum(row.end is None for row in active)
        gaps = [slot for slot in range(count) if active[slot].end is not None]
        movers = [slot for slot in range(count, len(active)) if active[slot].end is None]
        if gaps:
            cache.move(movers, gaps)
            for slot, mover in zip(gaps, movers, strict=True):
                active[slot] = active[mover]
        del active[count:]


def most_repeats(text: str) -> int:
    """Return how often in a row an answer about a sentence may repeat the same thing."""
    return max(_LEAST_REPEATS, max(Counter(text).values(), default=0))


def repeats_itself(tokens: Sequence[int], repeats: int) -> bool:
    """Return whether an answer ends in a cycle of at most 64 tokens that occurs more than `repeats` times in a row."""
    for cycle in range(1, _LONGEST_CYCLE + 1):
        length = max(cycle * (repeats + 1), _LEAST_LOOP)
        if length > len(tokens):
            break  # longer cycles are too long, too
        tail = tokens[-length:]
        if tail[cycle:] == tail[:-cycle]:
            return True
    return False


def uniform_draw(seed: int, name: str, step: int) -> float:
    """Hash the three arguments to a number in [0, 1)."""
    digest = hashlib.sha256(f"{seed}/{step}/{name}".encode()).digest()
    return int.from_bytes(digest[:4], "big") / 2.0**32


def sample_tokens(logits: Tensor, temperature: float, top_p: float, draws: Tensor) -> Tensor:
    """Draw one token per row by inverting the cumulative probabilities.

    This costs one pass over the vocabulary, and a sort of it if `top_p` is below 1.

    Args:
        logits: [B, V] of float32; -inf is never drawn.
        temperature: above 0; divides the logits.
        top_p: only the most probable tokens whose cumulative probability reaches this share are drawn from.
        draws: [B] of float64, in [0, 1).

    Returns:
        [B] token ids.
    """
    shares = torch.softmax(logits / temperature, dim=1)
    if top_p >= 1:
        return invert_shares(shares, draws)
    shares, order = shares.sort(dim=1, descending=True, stable=True)
    before = running_sums(shares) - shares
    shares = shares.masked_fill(before >= top_p, 0)
    shares[:, 0] = shares[:, 0].clamp_min(torch.finfo(shares.dtype).tiny)  # one token remains, however small top_p is
    return order.gather(1, invert_shares(shares, draws)[:, None])[:, 0]


def invert_shares(shares: Tensor, draws: Tensor) -> Tensor:
    """Return the first index at which the cumulative `shares` [B, V] exceed each row's draw of their sum; never a share
    of 0.
    """
    reached = running_sums(shares)
    return torch.searchsorted(reached, (draws * reached[:, -1])[:, None], right=True)[:, 0]


def running_sums(shares: Tensor) -> Tensor:
    """Return cumulative sums of rows [B, V] in fp64, on the CPU if `trainer.deterministic` forbids CUDA's kernel."""
    if shares.is_cuda and torch.are_deterministic_algorithms_enabled():
        return shares.double().cpu().cumsum(1).to(shares.device)
    return shares.double().cumsum(1)
