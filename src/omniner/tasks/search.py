"""`task=search`: find the best prompt on dev among those that can be made from a run's guidance.

Variants of the prompt (`guidance.prompt_search`) compete in rungs: each rung judges the remaining variants on more
sentences, or after more training steps, and drops those that are clearly worse. The best is then tested against the
prompt without guidance and against the one that `prompt.from_run` makes by default; the p-values are corrected for the
choice among many. The reported split is never read, neither here nor by the child runs.

A variant is judged by child runs under `children/`, in one of two ways:

- An untuned model, or a server, answers (`task=predict`) the sentences of the rung that no earlier rung included; the
  answers of all rungs are scored together.
- With `search.train`, a model is trained from the beginning for the steps of the rung. A share of train chooses its
  checkpoint, so that dev only compares prompts.

A child that fails is restarted once, from where it was; a variant whose child fails twice is out. A resumed search does
not repeat finished children. Dev sentences that a variant's prompt shows, or that also occur in train when models are
trained, are excluded for all variants. Guidance made from dev errors is based on other sentences of dev, which favours
it; `guide.split=train` avoids that.

The folder then holds `search.json`, `search.md`, `tables/search.csv`, `prompt.txt` (the best prompt) and
`best/prompt/searched.yaml`, with which later runs use it. They read the guidance from this folder.
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import itertools
import logging
import shlex
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from omegaconf import OmegaConf

from omniner.config.groups import Config, ErrtaConfig, MetricsConfig
from omniner.config.overrides import override_line
from omniner.corpus import sources
from omniner.corpus.formats import jsonl
from omniner.errors import UserError
from omniner.files import whole_lines, whole_records
from omniner.guidance.lessons import Guidance
from omniner.guidance.prompt_errors import warn_of_unusable_lessons
from omniner.guidance.prompt_search import (
    BASELINES,
    BaselineDifference,
    PromptVariant,
    SearchResult,
    VariantInputs,
    VariantResult,
    VariantScore,
    build_variants,
    corrected_score,
    dropped_variants,
    micro_counts,
    rank_variants,
)
from omniner.predicting.engines import ENGINES
from omniner.progress import show
from omniner.records import Issue, Prediction, Sentence, post_key, sentence_to_json, to_line
from omniner.report import guidance_page
from omniner.runs import children
from omniner.runs.children import Job
from omniner.runs.context import Context, Task, model_label, model_settings
from omniner.runs.folder import GUIDANCE_COPY, PREDICTIONS, other_corpus
from omniner.scoring.comparison import System, compare_runs
from omniner.scoring.predictions import prediction_from_line
from omniner.scoring.resampling import post_numbers
from omniner.scoring.scorer import score_records, settle_scale
from omniner.tasks import prompting
from omniner.wording import Wording

log = logging.getLogger("omniner")

CHOICE = "searched"
"""The name of the best prompt in the folder `best`, for `--config-dir`."""

SEARCH_FOLDER = "search"
"""The folder with the sentences of train and dev that the child runs read."""

TRAIN, DEV = "train.jsonl", "dev.jsonl"  # in it: sentences for prompts and training; sentences that compare variants
_ATTEMPTS = 2


@dataclass(frozen=True)
class Rung:
    """A step of the search.

    Attributes:
        number: 1, 2, ...
        budget: training steps; 0 = as many as `trainer` says. Always 0 if nothing is trained.
        fresh: sentences to answer in this rung that no earlier rung included; all sentences if models are trained.
        sentences: all sentences that a variant has answered after this rung.
    """

    number: int
    budget: int
    fresh: Sequence[Sentence]
    sentences: Sequence[Sentence]


@dataclass(frozen=True)
class _Judged:
    """The result of a rung.

    Attributes:
        rung: the rung.
        ranked: scores of its variants by name, the best first.
        tables: counts per post of its variants by name.
        gone: why a variant was dropped after it, by name.
    """

    rung: Rung
    ranked: Mapping[str, VariantScore]
    tables: Mapping[str, NDArray[np.int64]]
    gone: Mapping[str, str]


def run(context: Context) -> None:
    """Build the variants, run the rungs, test the best variant, and publish how to use it."""
    config = context.config
    corpus = sources.load_corpus(config.data, ["train", "dev"])
    context.publish_corpus(corpus)
    train = corpus.splits["train"]
    guidance = prompting.fetch_guidance(config, context.folder)
    prompting.publish_guidance(context, guidance)
    inputs = VariantInputs(guidance, corpus.active, train, prompting.length_measure(config)[1], corpus.definitions)
    # our copy of the guidance: the other run may be redone, which would change what the lessons' numbers mean
    ours = replace(config.prompt, from_run=str((context.folder / GUIDANCE_COPY).resolve()))
    found, same = build_variants(ours, config.search, inputs)
    log.info("%d prompts to try; %d more would be the same as one of them", len(found), len(same))
    warn_of_unusable_lessons(config.prompt, guidance, inputs.active)
    trained = frozenset(sentence.text for sentence in train) if config.search.train else frozenset[str]()
    dev, issues = _unseen(corpus.splits["dev"], found, trained)
    context.publish_issues([*corpus.issues, *issues])
    rungs = build_rungs(config, dev)
    log.info("rungs: %s", ", ".join(_label(config, rung) for rung in rungs))
    write_rungs(context, rungs, train)
    judged, answers = _race(context, rungs, found)
    result = _result(config, guidance, found, same, judged, answers, len(issues))
    language = context.page_language(sentence.text for sentence in dev)
    _publish(context, result, next(variant for variant in found if variant.name == result.best.name), language)


def _unseen(
    dev: Sequence[Sentence], found: Sequence[PromptVariant], trained: Collection[str]
) -> tuple[list[Sentence], list[Issue]]:
    """Return the dev sentences that no variant shows and no model is trained on, and an issue for each other one."""
    shown = frozenset[str]().union(*(variant.sentences for variant in found))
    kept, issues = [], []
    for sentence in dev:
        if sentence.text in shown:
            issues.append(Issue("shown", "a variant of the prompt shows it; it compares none of them", id=sentence.id))
        elif sentence.text in trained:
            issues.append(Issue("in-train", "the same text stands in train; it compares no prompts", id=sentence.id))
        else:
            kept.append(sentence)
    if not any(sentence.entities for sentence in kept):
        seen = "not shown by the prompts" + (" and not in train" if trained else "")
        state = f"{len(kept)} of {len(dev)} sentences of dev are {seen}, none with an entity"
        raise UserError("prompt.from_run", state, "Run task=guide with guide.split=train, or fewer guide.examples.")
    return kept, issues


def _race(
    context: Context, rungs: Sequence[Rung], found: Sequence[PromptVariant]
) -> tuple[list[_Judged], dict[str, list[Prediction]]]:
    """Run all rungs; return their results, and all answers by variant."""
    config, alive = context.config, list(found)
    # The last rung contains all others: its unit is used for all, so that F1 means the same in each rung.
    scale = settle_scale(rungs[-1].sentences, dataclasses.replace(config.metrics, bootstrap=0), config.errta)
    answers: dict[str, list[Prediction]] = {variant.name: [] for variant in found}
    judged: list[_Judged] = []
    for rung in rungs:
        fresh, failed = run_rung(context, rung, alive)
        _check_baselines(failed, rung)
        for name, predictions in fresh.items():
            answers[name] = predictions if config.search.train else answers[name] + predictions
        tables = _tables(scale, rung, [variant for variant in alive if variant.name in fresh], answers)
        ranked = rank_variants(tables, config.compare)
        gone: dict[str, str] = {name: Wording("its run failed: {why}", why=why) for name, why in failed.items()}
        if rung is not rungs[-1]:
            gone |= dropped_variants(ranked, BASELINES, config.search.keep, config.search.spare)
        judged.append(_Judged(rung, ranked, tables, gone))
        best = next(iter(ranked))
        log.info(
            "rung %d: %s has dev F1 %.2f %%; %d go on", rung.number, best, 100 * ranked[best].f1, len(alive) - len(gone)
        )
        values = {"search/rung_f1": ranked[best].f1, "search/rung_variants": len(ranked)}
        context.run.metrics(values, rung.number)
        alive = [variant for variant in alive if variant.name not in gone]
    return judged, answers


def _check_baselines(failed: Mapping[str, str], rung: Rung) -> None:
    """Raise a `UserError` if a baseline failed, for example without its server: there is nothing to compare with."""
    for name in BASELINES:
        if name in failed:
            found = f"{failed[name]} (the variant {name}, twice, in rung {rung.number})"
            raise UserError("search", found, "See its log in the folder children; then the same command goes on.")


def _tables(
    scale: tuple[MetricsConfig, ErrtaConfig],
    rung: Rung,
    alive: Sequence[PromptVariant],
    answers: Mapping[str, list[Prediction]],
) -> dict[str, NDArray[np.int64]]:
    """Return counts per post of each variant, shorter prompts first."""
    numbers = post_numbers(rung.sentences)
    post_of = {sentence.id: number for sentence, number in zip(rung.sentences, numbers, strict=True)}
    tables: dict[str, NDArray[np.int64]] = {}
    for variant in sorted(alive, key=lambda variant: variant.length):
        scored = score_records(rung.sentences, answers[variant.name], *scale)
        posts = [post_of[key] for key in scored.scored]
        tables[variant.name] = micro_counts(scored.comparison, posts, 1 + max(numbers))
    return tables


def _result(
    config: Config,
    guidance: Guidance,
    found: Sequence[PromptVariant],
    same: Sequence[tuple[str, str]],
    judged: Sequence[_Judged],
    answers: Mapping[str, list[Prediction]],
    left_out: int,
) -> SearchResult:
    last = judged[-1]
    ranked = [name for one in reversed(judged) for name in one.ranked]
    failed = [name for one in judged for name in one.gone]
    order = list(dict.fromkeys([*ranked, *failed]))  # variants that survived more rungs come first
    by_name = {variant.name: variant for variant in found}
    sentences = last.rung.sentences
    return SearchResult(
        tried=[_tried(by_name[name], judged) for name in order],
        same=same,
        rungs=[_label(config, one.rung) for one in judged],
        sentences=len(sentences),
        posts=1 + max(post_numbers(sentences)),
        left_out=left_out,
        against=_against(config, sentences, order[0], answers, len(set(ranked))),
        corrected=corrected_score(last.tables, config.compare),
        choices=len(last.tables),
        cost=_cost(config, len(found), judged),
        measure=prompting.length_measure(config)[0],
        split=guidance.split,
        from_test=guidance.from_test,
        settings=config.compare,
    )


def _label(config: Config, rung: Rung) -> str:
    if not config.search.train:
        return Wording("{count:sentence}", count=len(rung.sentences))
    return Wording("{count:step}", count=rung.budget) if rung.budget else Wording("all steps")


def _cost(config: Config, count: int, judged: Sequence[_Judged]) -> str:
    if config.search.train:
        parts = (Wording("{runs} of {rung}", runs=len(one.ranked), rung=_label(config, one.rung)) for one in judged)
        runs = sum(len(one.ranked) for one in judged)
        return Wording("{runs:training run}: {parts}", runs=runs, parts=Wording.joined(", ", parts))
    asked, whole = sum(len(one.rung.fresh) * len(one.ranked) for one in judged), count * len(judged[-1].rung.sentences)
    return Wording("{asked:answer} instead of {whole:,} without early stopping", asked=asked, whole=whole)


def _tried(variant: PromptVariant, judged: Sequence[_Judged]) -> VariantResult:
    stopped = next((one for one in judged if variant.name in one.gone), None)
    return VariantResult(
        name=variant.name,
        about=variant.about,
        overrides=variant.overrides,
        sha=variant.prompt.sha,
        length=variant.length,
        lessons=variant.lessons.numbers if variant.lessons else (),
        covered=variant.lessons.covered if variant.lessons else 0.0,
        standings=[one.ranked[variant.name] for one in judged if variant.name in one.ranked],
        stopped=stopped.rung.number if stopped else 0,
        why=stopped.gone[variant.name] if stopped else "",
    )


def _against(
    config: Config, sentences: Sequence[Sentence], best: str, answers: Mapping[str, list[Prediction]], judged: int
) -> list[BaselineDifference]:
    """Test the best prompt against each other baseline, as `task=compare` does.

    The p-values are corrected for the choice among `judged` variants.
    """
    names = [best, *(name for name in BASELINES if name != best)]
    contenders = [System(name, sentences, answers[name]) for name in names]
    metrics = dataclasses.replace(config.metrics, bootstrap=0)
    found = compare_runs(contenders, metrics, config.errta, config.compare)
    rows = [(one.name, one.significance.figures["micro.f1"], one.p_corrected) for one in found.tested]
    return [  # compare_runs subtracts the best from the baselines: negate, which swaps the interval's bounds
        BaselineDifference(
            name,
            0.0 - row.difference,
            0.0 - row.high,
            0.0 - row.low,
            row.p_randomisation,
            min(1.0, corrected * (judged - 1)),
            judged - 1,
        )
        for name, row, corrected in rows
    ]


def _publish(context: Context, result: SearchResult, best: PromptVariant, language: str) -> None:
    """Write, track and print the result."""
    prompting.publish_prompt(context, best.prompt)
    context.publish_text(f"best/prompt/{CHOICE}.yaml", _choice(best, context.config.name))
    context.publish_json("search.json", result.to_json())
    shown = "\n\n".join(turn["content"] for turn in best.prompt.outline())
    by_name = f"--config-dir {shlex.quote(str(context.folder / 'best'))} prompt={CHOICE}"
    page = guidance_page.search_markdown(result, context.config.name, shown, by_name)
    context.publish_text("search.md", page)
    page = guidance_page.render_search_page(result, context.config.name, shown, by_name, language)
    context.publish_text("search.html", page)
    context.publish_table("search", guidance_page.build_search_table(result))
    context.publish_results(_metrics(result))
    context.run.tags({"search.best": best.name, "search.overrides": override_line(best.overrides)})
    for warning in guidance_page.search_warnings(result):
        log.warning(warning)
    summary = guidance_page.search_summary(result)
    context.describe(f"Best prompt: {best.name}", ["search.html"], command=by_name, points=summary)
    show("\n".join(summary))
    show(f"to use it: {by_name}")


def _metrics(result: SearchResult) -> dict[str, float]:
    final = result.best.standings[-1]
    values: dict[str, float] = {"search/f1": final.f1, "search/f1_low": final.low, "search/f1_high": final.high}
    values |= {"search/variants": len(result.tried), "search/sentences": result.sentences}
    values |= {"search/left_out": result.left_out, "search/prompt_length": result.best.length}
    if result.corrected is not None:
        values["search/f1_without_optimism"] = result.corrected.f1
    for one in result.against:
        prefix = f"search/against_{one.name}"
        values |= {f"{prefix}_difference": one.difference, f"{prefix}_low": one.low, f"{prefix}_high": one.high}
        values[f"{prefix}_p"] = one.p_corrected
    return values


def _choice(best: PromptVariant, name: str) -> str:
    """Return the YAML of the best prompt as a choice of the group `prompt`."""
    head = f"# {best.about}: the best prompt that {name} found on dev"
    return f"{' '.join(head.split())}\n{OmegaConf.to_yaml(OmegaConf.create(dataclasses.asdict(best.config)))}"


def build_rungs(config: Config, dev: Sequence[Sentence]) -> list[Rung]:
    """Return the rungs of a search over `dev`; each takes whole posts in the order of `shuffled`."""
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
    """Group sentences by post, in an order that depends only on the seed and the posts' keys."""
    posts: dict[tuple[bool, str], list[Sentence]] = {}
    for sentence in sentences:
        posts.setdefault(post_key(sentence), []).append(sentence)

    def rank(key: tuple[bool, str]) -> bytes:
        return hashlib.blake2b(f"{seed} {key[0]:d} {key[1]}".encode("utf-8", "surrogatepass"), digest_size=16).digest()

    return [posts[key] for key in sorted(posts, key=rank)]


def _first(posts: Sequence[Sequence[Sentence]], size: int) -> list[Sentence]:
    """Return whole posts until there are at least `size` sentences; 0 = all."""
    found: list[Sentence] = []
    for post in posts:
        if size and len(found) >= size:
            break
        found += post
    return found


def write_rungs(context: Context, rungs: Sequence[Rung], train: Sequence[Sentence]) -> None:
    """Write the files that the child runs read.

    Raises:
        UserError: the corpus has changed since this search was interrupted.
    """
    folder = context.folder / SEARCH_FOLDER
    for path, sentences in ((folder / TRAIN, train), (folder / DEV, rungs[-1].sentences)):
        before = whole_lines(path)
        if before and before != [to_line(sentence_to_json(sentence)) for sentence in sentences]:
            raise other_corpus(context.folder, "the corpus is not the one that this unfinished search began with")
    jsonl.write(folder / TRAIN, train)
    jsonl.write(folder / DEV, rungs[-1].sentences)
    if not context.config.search.train:
        for rung in rungs:
            jsonl.write(folder / f"rung_{rung.number}.jsonl", rung.fresh)


def run_rung(
    context: Context, rung: Rung, variants: Sequence[PromptVariant]
) -> tuple[dict[str, list[Prediction]], dict[str, str]]:
    """Run a rung for these variants; return the answers to `rung.fresh` by variant, and errors of failed variants."""
    waiting = {f"{variant.name}-rung{rung.number}": variant for variant in variants}
    fix = "Remove the folder of this variant: the same command tries it again."
    answers: dict[str, list[Prediction]] = {}
    failed: dict[str, str] = {}
    for _ in range(_ATTEMPTS):
        failed = {}
        jobs = [Job(label, _config(context, variant, rung, label)) for label, variant in waiting.items()]
        for outcome in children.run_jobs(jobs, context.folder, context.run.id, context.config.children):
            variant = waiting[outcome.name]
            if outcome.error:
                log.warning("%s: %s", outcome.name, outcome.error)
                failed[variant.name] = outcome.error
            else:
                path = outcome.folder / PREDICTIONS
                answers[variant.name] = whole_records(path, prediction_from_line, fix)
                log.info("rung %d: %s is done, %d of %d", rung.number, variant.name, len(answers), len(variants))
        waiting = {label: variant for label, variant in waiting.items() if variant.name in failed}
        if not waiting:
            break
    return answers, {variant.name: failed[variant.name] for variant in waiting.values()}


def _config(context: Context, variant: PromptVariant, rung: Rung, label: str) -> Config:
    """Return the complete configuration of a child run, which uses this run's copy of the guidance."""
    ours = context.config
    config = copy.deepcopy(ours)
    config.name = f"{ours.name}-{label}"
    # the same copy, by a path that stays valid if the project is moved before the search resumes
    source = str(context.folder / GUIDANCE_COPY) if variant.config.from_run is not None else None
    config.prompt = replace(variant.config, from_run=source)
    folder = context.folder / SEARCH_FOLDER
    train = {"train": [TRAIN]}
    if not ours.search.train:
        config.task = replace(ours.task, name="predict")
        config.input = str(folder / f"rung_{rung.number}.jsonl")
        config.data = children.data_of_parent(ours.data, folder, train, report="test", dev_from_train=0.0)
        return config
    config.task = replace(ours.task, name="train")
    files, held_out = {**train, "dev": [DEV]}, ours.search.held_out
    config.data = children.data_of_parent(ours.data, folder, files, report="dev", dev_from_train=held_out)
    config.trainer = replace(ours.trainer, max_steps=rung.budget or ours.trainer.max_steps)
    config.tracking = replace(ours.tracking, log_model=False)  # these models only compare prompts
    return config


def _check(config: Config) -> None:
    """Raise a `UserError` if there is nothing to try, or no way to judge it."""
    search, rungs = config.search, config.search.rungs
    if not config.prompt.from_run:
        raise UserError("prompt.from_run", "task=search needs it", "Set it to a run of task=guide, with prompt=errta.")
    if config.checkpoint:
        found = "a trained model keeps the prompt it was trained with"
        raise UserError("checkpoint", found, "Leave it out: the prompt is searched for the model that model= names.")
    if not rungs or 0 in rungs[:-1] or any(b and b <= a for a, b in itertools.pairwise(rungs)):
        raise UserError("search.rungs", f"{rungs}", "Give numbers that grow; the last may be 0, which is all.")
    if not search.corrections:
        raise UserError("search.corrections", "there is none", "Give one or more, for example [1].")
    engine = ENGINES[config.decoding.engine]
    if search.train and not engine.local_weights:
        raise UserError("search.train", "a server's model is not trained here", "Set search.train=false.")
    untrained = config.llm is not None and config.llm.path is None
    if untrained and not search.train and engine.local_weights:
        raise UserError("search.train", "random weights cannot answer before they are trained", "Set it to true.")


TASK = Task(
    name="search",
    description=__doc__,
    run=run,
    label=lambda config: ["search", *model_label(config, config.search.train), config.data.name],
    check=_check,
    outputs=[
        "search.html",
        "search.json",
        "search.md",
        SEARCH_FOLDER,
        "best",
        "tables",
        "prompt.txt",
        GUIDANCE_COPY,
        children.FOLDER,
    ],
    resume_files=[f"{SEARCH_FOLDER}/{DEV}"],
    prompts=True,
    uses_model=lambda config: ENGINES[config.decoding.engine].local_weights,
    splits=lambda config: ("train", "dev"),
    settings=lambda config: [*model_settings(config), "compare"],
)
