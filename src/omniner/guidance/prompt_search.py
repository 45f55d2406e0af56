"""Build the variants of a prompt search, and decide which of them survive each rung.

`build_variants` makes complete prompts, each described by keys of `conf/prompt`: the same keys give the same prompt
without a search. Variants differ in the lessons of the guidance that they show, and in the number of corrections and
examples. The first two are the baselines: the prompt without guidance, and the one that `prompt.from_run` makes by
default. Then come the largest lessons, the lessons about one type of error, and random subsets, in which larger
clusters are more likely; all with every number of corrections. Variants that give the same prompt as an earlier one are
left out and reported.

`rank_variants` and `dropped_variants` decide which variants survive, by the counts per post of all variants on the same
sentences. Successive halving (Karnin et al. 2013, Jamieson and Talwalkar 2016) keeps a share of the variants at every
rung, so that most sentences are spent on the good ones. A variant that is significantly worse than the best one (paired
bootstrap over posts) is dropped even within that share, as in a race (Tsamardinos et al. 2018 drop configurations in
this way); a few variants beyond the share may stay if they are not significantly worse than the best.

The best of several variants is partly chosen by luck. `corrected_score` repeats the choice on every draw and scores the
chosen variant on the posts that the draw left out (the bootstrap bias correction of Tsamardinos et al. 2018).
`SearchResult` is the result of a whole search.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from omniner.config.groups import CompareConfig, SearchConfig
from omniner.config.model_groups import PromptConfig
from omniner.config.overrides import override_line
from omniner.guidance.lessons import Guidance
from omniner.guidance.prompt_errors import (
    ErrorsText,
    LengthFunction,
    render_errors_text,
    usable_lessons,
    with_errors_text,
)
from omniner.llm.examples import choose_examples
from omniner.llm.prompts import Prompt, build_prompt
from omniner.records import Sentence
from omniner.scoring.error_types import lesson_kinds, paper_types
from omniner.scoring.resampling import bounds, counted_categories, counts_per_post, drawn_weights, resampled_counts
from omniner.scoring.units import Comparison
from omniner.version import __version__
from omniner.wording import Wording

_STREAM, _CHOICE = 0x5EA2C4, 0xC401CE  # make these draws independent of other uses of the seed
_DRAWS = 20  # attempts to draw a new random subset, before drawing stops


GENERIC, PLAIN = "generic", "from_run"
BASELINES = (GENERIC, PLAIN)
"""Variants with which every other one is compared: they are never dropped."""

VARIANT_KEYS = ("from_run", "lessons", "corrections", "examples")
"""The keys of `prompt` in which variants differ."""


@dataclass(frozen=True)
class PromptVariant:
    """A prompt to try.

    Attributes:
        name: short name, for folders and tables.
        about: description in words.
        config: the prompt's configuration; it differs from the others in `VARIANT_KEYS`.
        prompt: the prompt, built with the whole training split.
        length: length of its texts, in tokens, or in characters if there is no tokenizer.
        lessons: the text made from the guidance; None for the generic prompt.
        sentences: texts of the sentences that it shows, in whole or in part: those of corrections, and examples of
            train.
    """

    name: str
    about: str
    config: PromptConfig
    prompt: Prompt
    length: int
    lessons: ErrorsText | None
    sentences: frozenset[str]

    @property
    def overrides(self) -> dict[str, Any]:
        """The keys to set, beside the choice of `prompt`, to get this variant, with their values."""
        return {f"prompt.{key}": getattr(self.config, key) for key in VARIANT_KEYS}


@dataclass(frozen=True)
class VariantInputs:
    """The inputs from which variants are built.

    Attributes:
        guidance: guidance of the run that `prompt.from_run` names.
        active: categories of the corpus.
        train: sentences of its training split.
        count: measures the length of a text.
        definitions: category -> definition.
    """

    guidance: Guidance
    active: Sequence[str]
    train: Sequence[Sentence]
    count: LengthFunction
    definitions: Mapping[str, str] = field(default_factory=dict)


def build_variants(
    config: PromptConfig, search: SearchConfig, inputs: VariantInputs
) -> tuple[list[PromptVariant], list[tuple[str, str]]]:
    """Build all variants of a prompt.

    Args:
        config: configuration of the prompt, with `from_run`; `lessons` are those to choose from (empty = all).
        search: which variants to try.
        inputs: the inputs from which variants are built.

    Returns:
        The variants, and (name, name of the other) of those that would give the same prompt as another one.

    Raises:
        UserError: see `render_errors_text` and `build_prompt`.
    """
    found: dict[str, PromptVariant] = {}  # by the prompt's hash
    same: list[tuple[str, str]] = []
    for proposal in propose(config, search, inputs):
        variant = build_variant(proposal, inputs)
        earlier = found.setdefault(variant.prompt.sha, variant)
        if earlier is not variant:
            same.append((variant.name, earlier.name))
    for variant in random_variants(config, search, inputs, found):
        found[variant.prompt.sha] = variant
    return list(found.values()), same


def build_variant(proposal: Proposal, inputs: VariantInputs) -> PromptVariant:
    """Build the variant of a proposal; `lessons` in its config become those that are really in the prompt."""
    name, about, config = proposal
    filled, shown = config, None
    if config.from_run is not None:
        shown = render_errors_text(inputs.guidance, config, inputs.active, inputs.count)
        filled = with_errors_text(config, inputs.guidance, shown)
        if name != PLAIN:
            config = replace(config, lessons=list(shown.numbers))
    prompt = build_prompt(filled, inputs.active, inputs.train, inputs.definitions)
    length = inputs.count("".join(turn["content"] for turn in prompt.outline()))
    examples = choose_examples(inputs.train, filled.examples, filled.seed)
    texts = frozenset([*(shown.sentences if shown else ()), *(sentence.text for sentence in examples)])
    return PromptVariant(name, about, config, prompt, length, shown, texts)


class Proposal(NamedTuple):
    """The name, the description and the configuration of a variant."""

    name: str
    about: str
    config: PromptConfig


def propose(config: PromptConfig, search: SearchConfig, inputs: VariantInputs) -> Iterator[Proposal]:
    """Yield proposals for variants; of equal prompts, the first is kept."""
    yield Proposal(GENERIC, Wording("no guidance"), replace(config, from_run=None, lessons=[]))
    yield Proposal(PLAIN, Wording("as prompt.from_run has it"), config)
    usable = usable_lessons(inputs.guidance, config, inputs.active, inputs.count)
    kinds = {number: inputs.guidance.lessons[number - 1].kind for number in usable}
    subsets = {f"all_{len(usable)}": (Wording("all lessons"), usable)}
    for size in search.largest:
        subsets[f"largest_{size}"] = (Wording("the {size} largest lessons", size=size), usable[:size])
    if search.types:
        paper = {kind.name: kind.paper for kind in lesson_kinds().values()}
        for one in paper_types():
            chosen = [number for number in usable if paper[kinds[number]] == one]
            subsets[f"only_{one.name}"] = (Wording("lessons on {kind}", kind=Wording(one.name)), chosen)
    for name, (about, numbers) in subsets.items():
        if numbers:
            yield from with_examples(Proposal(name, about, replace(config, lessons=numbers)), search)


def with_examples(proposal: Proposal, search: SearchConfig) -> Iterator[Proposal]:
    """Yield a proposal with every number of corrections and of examples from train."""
    name, about, config = proposal
    for corrections, examples in itertools.product(search.corrections, search.examples or [config.examples]):
        each = Wording("{count:correction} each", count=corrections)
        shots = [Wording("{count:sentence} of train", count=examples)] if search.examples else []
        yield Proposal(
            f"{name}-c{corrections}" + (f"-e{examples}" if search.examples else ""),
            Wording.joined(", ", [about, each, *shots]),
            replace(config, corrections=corrections, examples=examples),
        )


def random_variants(
    config: PromptConfig, search: SearchConfig, inputs: VariantInputs, found: dict[str, PromptVariant]
) -> Iterator[PromptVariant]:
    """Draw variants with random subsets of lessons whose prompts are not in `found`; stop if no new one is drawn.

    A subset has at most as many lessons as fit into a prompt: of larger ones only the largest clusters would remain.
    """
    most = max(variant.lessons.shown for variant in found.values() if variant.lessons)
    usable = usable_lessons(inputs.guidance, config, inputs.active, inputs.count)
    weights = [inputs.guidance.lessons[number - 1].count for number in usable]
    generator = random.Random(search.seed)
    for place in range(1, search.random + 1):
        for _ in range(_DRAWS):
            size = 1 + int(generator.random() * most)
            numbers = draw_weighted(usable, weights, size, generator)
            proposal = Proposal(f"random_{place}", Wording("random lessons"), replace(config, lessons=numbers))
            forms = list(with_examples(proposal, search))
            variant = build_variant(forms[int(generator.random() * len(forms))], inputs)
            if variant.prompt.sha not in found:
                yield variant
                break
        else:
            return


def draw_weighted(items: Sequence[int], weights: Sequence[int], size: int, generator: random.Random) -> list[int]:
    """Draw `size` of the items without replacement, with probabilities by weight; they stay in their order.

    Takes the items with the largest keys u ** (1 / weight), u uniform in [0, 1) (Efraimidis and Spirakis 2006).
    """
    keys = [generator.random() ** (1 / weight) if weight else 0.0 for weight in weights]
    chosen = sorted(range(len(items)), key=lambda place: -keys[place])[:size]
    return [items[place] for place in sorted(chosen)]


class VariantScore(NamedTuple):
    """Micro F1 of a variant and its difference from that of the best one, each with its interval."""

    f1: float
    low: float
    high: float
    difference: float
    difference_low: float
    difference_high: float


class CorrectedScore(NamedTuple):
    """The F1 of the best variant on sentences that were not used to choose it, with its interval."""

    f1: float
    low: float
    high: float


def micro_counts(comparison: Comparison, posts: Sequence[int], count: int) -> NDArray[np.int64]:
    """Return tp, fp and fn over all categories, per post: [posts, 3]; see `resampling.counts_per_post`."""
    table: NDArray[np.int64] = counts_per_post(comparison, posts, count, counted_categories([comparison])).sum(axis=2)
    return table


def rank_variants(tables: Mapping[str, NDArray[np.int64]], settings: CompareConfig) -> dict[str, VariantScore]:
    """Score all variants, the best first; equally good ones stay in the given order.

    Args:
        tables: counts [posts, 3] of each variant from `micro_counts`; the same posts for all.
        settings: `resamples`, `confidence` and `seed` are read.
    """
    table = np.stack(list(tables.values()), axis=1)  # [posts, variants, 3]
    observed = _f1(table.sum(axis=0))
    best = int(observed.argmax())
    generator = np.random.default_rng(np.random.SeedSequence([settings.seed, _STREAM]))
    drawn = np.concatenate([_f1(sums) for sums in resampled_counts(table, settings.resamples, generator)])
    ranges = bounds(drawn, settings.confidence)
    behind = bounds(drawn - drawn[:, [best]], settings.confidence)
    columns = (observed, *ranges, observed - observed[best], *behind)
    rows = {name: VariantScore(*map(float, row)) for name, *row in zip(tables, *columns, strict=True)}
    return dict(sorted(rows.items(), key=lambda item: -item[1].f1))


def dropped_variants(
    ranked: Mapping[str, VariantScore], always: Collection[str], keep: float, spare: int
) -> dict[str, str]:
    """Return the variants that are dropped, with the reason.

    Args:
        ranked: result of `rank_variants`.
        always: variants that are never dropped; they do not count in the share of the others.
        keep: share of the others that survives, rounded up.
        spare: how many beyond that share survive if they are not significantly worse than the best.
    """
    best = next(iter(ranked))
    others = [name for name in ranked if name not in always]
    places = math.ceil(keep * len(others)) or 1
    reasons: dict[str, str] = {}
    for place, name in enumerate(others):
        if ranked[name].difference_high < 0:
            reasons[name] = Wording("worse than {best}", best=best)
        elif place >= places + spare:
            reasons[name] = Wording(
                "not among the best {places} of {others}; not told apart from {best}",
                places=places, others=len(others), best=best,
            )  # fmt: skip
    return reasons


def corrected_score(tables: Mapping[str, NDArray[np.int64]], settings: CompareConfig) -> CorrectedScore | None:
    """Score the best of these variants on posts that were not used to choose it; None if there are too few posts.

    Args:
        tables: counts [posts, 3] of each variant; of equally good ones, the first is preferred.
        settings: `resamples`, `confidence` and `seed` are read.
    """
    table = np.stack(list(tables.values()), axis=1)  # [posts, variants, 3]
    posts = len(table)
    flat = table.reshape(posts, -1).astype(np.float64)
    generator = np.random.default_rng(np.random.SeedSequence([settings.seed, _CHOICE]))
    parts = []
    for weights in drawn_weights(posts, settings.resamples, generator):
        left = (weights == 0).astype(np.float64)
        inside, outside = (_f1((part @ flat).reshape(-1, *table.shape[1:])) for part in (weights, left))
        chosen = np.take_along_axis(outside, inside.argmax(axis=1)[:, None], axis=1)[:, 0]
        parts.append(chosen[left.any(axis=1)])  # some draws leave out no post
    found = np.concatenate(parts)
    if not len(found):
        return None
    return CorrectedScore(float(found.mean()), *map(float, bounds(found, settings.confidence)))


def _f1(sums: NDArray[np.int64] | NDArray[np.float64]) -> NDArray[np.float64]:
    """Compute F1 from counts [..., 3] of tp, fp and fn; 0 if all are 0."""
    tp, wrong = sums[..., 0], sums[..., 1] + sums[..., 2]
    below = 2 * tp + wrong
    return np.divide(2 * tp, below, out=np.zeros(below.shape), where=below > 0)


@dataclass(frozen=True)
class VariantResult:
    """The results of a variant.

    Attributes:
        name: name of the variant.
        about: description in words.
        overrides: keys that give this prompt, with their values.
        sha: hash of the prompt.
        length: length of its texts, in `SearchResult.measure`.
        lessons: numbers of the lessons in it.
        covered: share of the run's errors that are in the clusters of these lessons.
        standings: its score after each rung in which it took part.
        stopped: the rung after which it was dropped; 0 = it was not.
        why: the reason why it was dropped.
    """

    name: str
    about: str
    overrides: Mapping[str, Any]
    sha: str
    length: int
    lessons: Sequence[int]
    covered: float
    standings: Sequence[VariantScore]
    stopped: int
    why: str


@dataclass(frozen=True)
class BaselineDifference:
    """The difference of the best prompt from a baseline, with its interval and p-values.

    The best prompt was chosen among several: `family` is the number of candidates for this choice. `p_corrected` is
    Holm's p-value over the baselines, times `family` (Bonferroni correction for the choice). The interval is not
    corrected.
    """

    name: str
    difference: float
    low: float
    high: float
    p: float
    p_corrected: float
    family: int


@dataclass(frozen=True)
class SearchResult:
    """A finished search.

    Attributes:
        tried: the variants, the best first.
        same: (name, other) of variants that give the same prompt as another one.
        rungs: the size of each rung in words: `50 sentences`, `200 steps`.
        sentences: number of dev sentences in the last rung.
        posts: number of their posts.
        left_out: number of dev sentences that a variant shows, or that are also in train when models are trained.
        against: differences of the best prompt from each other baseline.
        corrected: F1 of the best variant on sentences that were not used to choose it; None if there are too few posts.
        choices: number of variants in that choice.
        cost: number of answers or training runs, in words.
        measure: unit of lengths: tokens | characters.
        split: split of the guidance's errors.
        from_test: whether this is the reported split.
        settings: settings of the tests and intervals.
    """

    tried: Sequence[VariantResult]
    same: Sequence[tuple[str, str]]
    rungs: Sequence[str]
    sentences: int
    posts: int
    left_out: int
    against: Sequence[BaselineDifference]
    corrected: CorrectedScore | None
    choices: int
    cost: str
    measure: str
    split: str
    from_test: bool
    settings: CompareConfig

    @property
    def best(self) -> VariantResult:
        """The variant with the highest F1 in the last rung."""
        return self.tried[0]

    def to_json(self) -> dict[str, Any]:
        """Return the content of `search.json`."""
        value = asdict(self)
        for item, tried in zip(value["tried"], self.tried, strict=True):
            item["standings"] = [standing._asdict() for standing in tried.standings]
        value["corrected"] = self.corrected._asdict() if self.corrected else None
        value["settings"] = {name: getattr(self.settings, name) for name in ("resamples", "confidence", "seed")}
        return {"version": __version__, "best": self.best.name, "command": override_line(self.best.overrides), **value}
