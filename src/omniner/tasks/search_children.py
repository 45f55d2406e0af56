"""The runs that a prompt search starts: one for each variant and rung, and what they answered.

Two ways to judge a prompt. A model that answers as it is, or a server, is asked: a rung has some sentences of dev, its
run is `task=predict` on those that no earlier rung asked for, and the answers of all rungs together are scored. A model
that has to be tuned to the prompt (`search.train`) is trained: a rung has a number of steps, its run is `task=train`
from the beginning with that budget. There dev is what the run reports on, and a share of train chooses its checkpoint,
so that all that dev does is compare prompts.

No run of a search reads the reported split: those that ask read their rung and train, those that train have a corpus
without it. A run that fails is started once more, where it was; what
fails twice is out. Finished runs are not repeated when a search goes on.
"""

from __future__ import annotations

import copy
import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

from omniner import children
from omniner.analysis.scores.predictions import prediction_from_line
from omniner.children import Job, Outcome
from omniner.corpus.formats import jsonl
from omniner.files import whole_lines
from omniner.records import Prediction, Sentence
from omniner.schema import Config
from omniner.tasks.context import Context
from omniner.tasks.prompting import COPY
from omniner.tasks.search_variants import Variant

log = logging.getLogger("omniner")

FOLDER = "search"
"""What the runs read: the sentences of dev, and where models are trained those of train."""

DEV = "dev.jsonl"  # in it: what the variants are compared on
_ATTEMPTS = 2


@dataclass(frozen=True)
class Rung:
    """A step of the search.

    Attributes:
        number: 1, 2, ...
        budget: steps of training; 0 = as many as `trainer` says. Always 0 where nothing is trained.
        fresh: sentences that are asked for now; all of them where models are trained.
        sentences: all that a variant has been asked for after it.
    """

    number: int
    budget: int
    fresh: Sequence[Sentence]
    sentences: Sequence[Sentence]


def rungs(config: Config, dev: Sequence[Sentence]) -> list[Rung]:
    """The rungs of a search over `dev`, whole posts in the order of `shuffled`."""
    search = config.search
    posts = shuffled(dev, search.seed)
    everything = _first(posts, search.sentences)
    if search.train:
        return [Rung(number, budget, everything, everything) for number, budget in enumerate(search.rungs, 1)]
    found: list[Rung] = []
    before = 0
    for size in search.rungs:
        sentences = _first(posts, min(filter(None, (size, search.sentences)), default=0))
        if len(sentences) > before:  # dev may be smaller than a rung
            found.append(Rung(len(found) + 1, 0, sentences[before:], sentences))
            before = len(sentences)
    return found


def shuffled(sentences: Sequence[Sentence], seed: int) -> list[list[Sentence]]:
    """The sentences by post, in an order that depends on nothing but the seed and the posts themselves."""
    posts: dict[tuple[bool, str], list[Sentence]] = {}
    for sentence in sentences:
        posts.setdefault((bool(sentence.post_id), sentence.post_id or sentence.id), []).append(sentence)

    def rank(key: tuple[bool, str]) -> bytes:
        return hashlib.blake2b(f"{seed} {key[0]:d} {key[1]}".encode("utf-8", "surrogatepass"), digest_size=16).digest()

    return [posts[key] for key in sorted(posts, key=rank)]


def _first(posts: Sequence[Sequence[Sentence]], size: int) -> list[Sentence]:
    """Whole posts until there are `size` sentences; 0 = all."""
    found: list[Sentence] = []
    for post in posts:
        if size and len(found) >= size:
            break
        found += post
    return found


def prepare(context: Context, steps: Sequence[Rung], train: Sequence[Sentence]) -> None:
    """Write what the runs read."""
    folder = context.folder / FOLDER
    jsonl.write(folder / DEV, steps[-1].sentences)
    if context.config.search.train:
        jsonl.write(folder / "train.jsonl", train)
    else:
        for step in steps:
            jsonl.write(folder / f"rung_{step.number}.jsonl", step.fresh)


def run(
    context: Context, step: Rung, variants: Sequence[Variant]
) -> tuple[dict[str, list[Prediction]], dict[str, str]]:
    """Do a rung for these variants: the answers to `step.fresh` by variant, and why others have none."""
    waiting = {_label(variant, step): variant for variant in variants}
    answers: dict[str, list[Prediction]] = {}
    failed: dict[str, str] = {}
    for _ in range(_ATTEMPTS):
        failed = {}
        jobs = [Job(label, _config(context, variant, step, label)) for label, variant in waiting.items()]
        for outcome in children.run_all(jobs, context.folder, context.run.id or None, context.config.children):
            variant = waiting[outcome.name]
            if outcome.error:
                log.warning("%s: %s", outcome.name, outcome.error)
                failed[variant.name] = outcome.error
            else:
                answers[variant.name] = _answers(outcome)
                log.info("rung %d: %s is done, %d of %d", step.number, variant.name, len(answers), len(variants))
        waiting = {label: variant for label, variant in waiting.items() if variant.name in failed}
        if not waiting:
            break
    return answers, {variant.name: failed[variant.name] for variant in waiting.values()}


def _label(variant: Variant, step: Rung) -> str:
    return f"{variant.name}-rung{step.number}"


def _config(context: Context, variant: Variant, step: Rung, label: str) -> Config:
    """A whole configuration, with the guidance of this run."""
    ours = context.config
    config = copy.deepcopy(ours)
    config.name = f"{ours.name}-{label}"
    # our copy of the guidance: whatever becomes of the run it is from, all variants have the same
    source = str(context.folder / COPY) if variant.config.from_run is not None else None
    config.prompt = replace(variant.config, from_run=source)
    place = context.folder / FOLDER
    if not ours.search.train:
        config.task = replace(ours.task, name="predict")
        config.input = str(place / f"rung_{step.number}.jsonl")
        return config
    config.task = replace(ours.task, name="train")
    files = {"train": ["train.jsonl"], "dev": [DEV]}
    config.data = replace(
        ours.data, format="jsonl", root=str(place), files=files, size={}, report="dev",
        dev_from_train=ours.search.held_out,
    )  # fmt: skip
    config.trainer = replace(ours.trainer, max_steps=step.budget or ours.trainer.max_steps)
    config.tracking = replace(ours.tracking, log_model=False)  # the models are means, not results
    return config


def _answers(outcome: Outcome) -> list[Prediction]:
    return [prediction_from_line(line) for line in whole_lines(outcome.folder / "predictions.jsonl")]
