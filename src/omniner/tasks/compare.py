"""`task=compare`: compare finished runs on one test set with the first of them. Loads no model and no torch.

`runs=[a,b,...]` lists predictions files, run folders, folders of sweeps (all their runs), or runs of the tracking store
by id or name. `name=...` before an entry renames it; for a sweep, the names of its runs then begin with this name. All
runs must have the same sentences with the same gold entities, in any order and with any ids; otherwise test sets would
be compared, not runs. Files are read with the `data` of this command; those of a run of `task=score` are read as that
run read them. All runs are scored anew with the `metrics` and `errta` of this command, so that scores are comparable.

`annotators=[a.jsonl,b.jsonl,...]` adds people's labels of the same sentences and shows their mean beside the runs; one
run is then enough. The results are `comparison.html`, `.md` and `.json`, tables as CSV and LaTeX, and figures.
"""

from __future__ import annotations

import dataclasses
import logging
import tempfile
import time
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omniner import tracking
from omniner.config import run_config
from omniner.config.class_defaults import with_class_defaults
from omniner.config.groups import Config
from omniner.config.overrides import override_line
from omniner.config.run_config import NOT_IDENTITY
from omniner.config.validate import flat
from omniner.corpus.adjudication import annotation_of
from omniner.errors import UserError
from omniner.files import sha256
from omniner.progress import Progress, show
from omniner.records import Issue, Prediction, Sentence, content_digest
from omniner.report import comparison_page
from omniner.report.comparison_page import (
    ComparisonFacts,
    comparison_method,
    comparison_warnings,
    render_comparison_page,
)
from omniner.report.comparison_tables import build_comparison_tables, comparison_summary
from omniner.report.tables import TEXT, Table, escape_markdown, tables_markdown
from omniner.runs import sweep
from omniner.runs.context import Context, Input, Task, entry_label
from omniner.runs.run_files import RunFiles, count_runs, find_run_files
from omniner.scoring.comparison import (
    HUMAN,
    MICRO,
    RunComparison,
    System,
    compare_runs,
    human_json,
    human_predictions,
    labelled_gold,
)
from omniner.scoring.gold import Gold, GoldFile
from omniner.scoring.predictions import LoadedPredictions, read_predictions
from omniner.scoring.scorer import has_places, way_of_counting
from omniner.tasks import adjudicate
from omniner.tasks.score import check_scored
from omniner.tracking.tracked_run import DataInput
from omniner.wording import Wording, counted

log = logging.getLogger("omniner")

# Keys that are no difference between runs: their names, their folders, and the files they read.
NOT_COMPARED = (*NOT_IDENTITY, "name", "predictions", "gold")
COUNTING = (*sweep.SCALES, "metrics.on_parse_failure")  # keys that change what is counted
UNKNOWN = "unknown"  # shown for every value of a run without configuration


def run(context: Context) -> None:
    """Find and read the runs, align their test sets, compare them, and publish the results."""
    config = context.config
    adjudicate.annotator_files(config.annotators)  # a missing file is reported before the runs are read
    with tempfile.TemporaryDirectory() as copies:
        sources = find_run_files(config, Path(copies))
        if config.annotators and HUMAN in {source.name for source in sources}:
            found = f"a run is called {HUMAN}, as the mean over the annotators is"
            raise UserError("runs", found, 'Give it another name: "name=path".')
        for source in sources:
            log.info("%s: %s", source.name, source.where)
        loaded, issues = read_runs(sources)
        systems, digest = align_runs(sources, loaded)
        people, met = _people(context, systems[0].gold)
    start = time.perf_counter()
    comparison = compare_runs(systems, config.metrics, config.errta, config.compare, people)
    for name, result in comparison.results.items():
        check_scored(result, name)
    log.info("compared in %.1f s", time.perf_counter() - start)
    context.publish_issues([*issues, *met, *_issues(comparison)])
    context.run.datasets([DataInput("test", "test", digest, sources[0].where, comparison.sentences)])
    context.run.tags({f"compare.{source.name}": source.run_id or source.where for source in sources})
    warnings = counted_otherwise(sources, comparison, config)
    for warning in warnings:
        log.warning(warning)
    _publish(context, comparison, sources, digest, warnings)
    ids = [source.run_id for source in sources if source.run_id]
    summary = comparison_summary(comparison)
    headline = f"{counted(len(sources), 'run')} compared on {counted(comparison.sentences, 'sentence')}"
    context.describe(headline, ["comparison.html", "comparison.md"], points=summary)
    show("\n".join(summary))
    if len(ids) > 1 and (link := tracking.compare_link(config.tracking, ids)):
        show(f"compare: {link}")


def _people(context: Context, gold: Sequence[Sentence]) -> tuple[list[System], list[Issue]]:
    """Read the annotators' labels of the sentences that the runs were tested on."""
    if not context.config.annotators:
        return [], []
    people, issues = adjudicate.read_annotators(context)
    systems = []
    for one in people:
        predictions, met = human_predictions(one.name, one.sentences, gold)
        if not predictions:
            found = (
                f"{one.path} has labels of none of the {counted(len(gold), 'sentence')} that the runs were tested on"
            )
            raise UserError("annotators", found, "Name labels of the test set, with its ids or its texts.")
        issues += met
        systems.append(System(one.name, labelled_gold(gold, predictions), predictions))
    return systems, issues


def _issues(comparison: RunComparison) -> list[Issue]:
    """Return the scorer's issues, each with the name of the run or annotator."""
    return [
        issue._replace(message=f"{name}: {issue.message}")
        for name, result in (*comparison.results.items(), *comparison.annotators.items())
        for issue in result.issues
    ]


def counted_otherwise(sources: Sequence[RunFiles], comparison: RunComparison, config: Config) -> list[str]:
    """Return a warning about runs whose own reports count in another way, with the keys that would count so here."""
    here = flat(config)
    groups: dict[tuple[str, str, str], list[str]] = {}
    for source in sources:
        way_here = way_of_counting(comparison.results[source.name].signature)
        own_way = way_of_counting(source.signature)
        differ = [name for name, value in own_way.items() if value != way_here[name]]
        if differ:
            ran = flat(source.config)
            keys = override_line({key: ran[key] for key in COUNTING if key in ran and ran[key] != here[key]})
            counted_as = [", ".join(f"{name} {counts[name]}" for name in differ) for counts in (own_way, way_here)]
            groups.setdefault((counted_as[0], counted_as[1], keys), []).append(source.name)
    warnings: list[str] = []
    for (theirs, ours, keys), names in groups.items():
        differs = Wording(
            "{runs}: figures here are not those of the run's own report, which counts by {theirs}; this comparison "
            "counts by {ours}.",
            runs=Wording.joined(", ", names), theirs=theirs, ours=ours,
        )  # fmt: skip
        add = [Wording("Add {keys} to count as there.", keys=keys)] if keys else []
        warnings.append(Wording.joined(" ", [differs, *add]))
    return warnings


def _publish(
    context: Context, comparison: RunComparison, sources: Sequence[RunFiles], digest: str, warnings: Sequence[str]
) -> None:
    differ = config_differences(sources)
    tables = build_comparison_tables(comparison, differ)
    context.run.metrics(_metrics(comparison))
    context.publish_json("comparison.json", comparison.to_json())
    context.publish_tables(tables, "compare_")
    for name, table in tables.items():
        if any(column.kind != TEXT for column in table.columns):  # no paper prints whole sentences
            context.publish_text(f"latex/compare_{name}.tex", table.to_latex(f"compare-{name}"))
    _texts(context, comparison, tables, sources, digest, warnings)


def _metrics(comparison: RunComparison) -> dict[str, float]:
    values: dict[str, float] = {}
    for name, result in comparison.results.items():
        values[f"compare/{name}/f1"] = result.metrics.micro.f1
        values[f"compare/{name}/macro_f1"] = result.metrics.macro.f1
        values[f"compare/{name}/errors"] = sum(count.errors for count in result.errta.by_type.values())
    if comparison.annotators:
        for figure, found in human_json(comparison.annotators)[MICRO].items():
            values[f"compare/{HUMAN}/{figure}"] = found["mean"]
            values[f"compare/{HUMAN}/{figure}_deviation"] = found["deviation"]
    for run in comparison.tested:
        for figure, row in run.significance.figures.items():
            prefix = f"compare/{run.name}/{figure.replace('.', '_')}"
            for what in ("difference", "low", "high", "p_randomisation", "p_bootstrap"):
                values[f"{prefix}_{what}"] = getattr(row, what)
        values[f"compare/{run.name}/gained"] = len(run.gained)
        values[f"compare/{run.name}/lost"] = len(run.lost)
    return values


def _texts(
    context: Context,
    comparison: RunComparison,
    tables: Mapping[str, Table],
    sources: Sequence[RunFiles],
    digest: str,
    warnings: Sequence[str],
) -> None:
    gold = comparison.results[comparison.baseline].sentences.values()
    language = context.page_language(sentence.text for sentence in gold)
    context.publish_figures(comparison_page.draw_comparison_figures(comparison, language))
    tested = Wording("{sentences:sentence}, digest {digest}", sentences=comparison.sentences, digest=digest)
    details: dict[str, str] = {
        **{source.name: source.where for source in sources},
        Wording("test set"): tested,
        Wording("folder"): str(context.folder),
        Wording("MLflow run"): context.run.id or Wording("not tracked"),
    }
    created = time.strftime("%Y-%m-%d %H:%M:%S")
    unknown = any(not source.config for source in sources)
    facts = ComparisonFacts(context.config.name, created, details, unknown, warnings)
    page = render_comparison_page(comparison, tables, facts, language)
    context.publish_text("comparison.html", page)
    said = [*comparison_summary(comparison), *warnings, *comparison_warnings(comparison)]
    lines = [f"# {escape_markdown(context.config.name)}", *(f"- {escape_markdown(line)}" for line in said)]
    lines += [tables_markdown(tables), "## How it was tested", *map(escape_markdown, comparison_method(comparison))]
    context.publish_text("comparison.md", "\n\n".join(lines) + "\n")


GoldFiles = dict[tuple[str, str], GoldFile]
"""Gold files by content and reading settings: equal files that are read alike are read once."""


def read_runs(sources: Sequence[RunFiles]) -> tuple[list[LoadedPredictions], list[Issue]]:
    """Read gold and predictions of every run; return them with the issues of all files."""
    files: GoldFiles = {}
    loaded, progress = [], Progress("runs read", len(sources))
    for source in sources:
        loaded.append(read_run(source, files))
        progress.add(1)
    return loaded, [issue for item in loaded for issue in item.issues]


def read_run(source: RunFiles, files: GoldFiles, gold: Gold | None = None) -> LoadedPredictions:
    """Read gold and predictions of a run.

    Args:
        source: the run.
        files: the gold files of other runs, which are not read again; its own is added.
        gold: of runs that bring none.
    """
    if source.gold is None:
        return read_predictions(source.predictions, gold, source.data)
    key = (sha256(source.gold) if source.gold.is_file() else str(source.gold), repr(source.data))
    return read_predictions(source.predictions, files.setdefault(key, GoldFile(source.gold, source.data)), source.data)


def align_runs(sources: Sequence[RunFiles], loaded: Sequence[LoadedPredictions]) -> tuple[list[System], str]:
    """Give all runs the ids and the order of the first run's sentences; return them and the digest of the test set.

    Sentences are the same if their texts and entities are the same, in any order and with any ids (readers make ids of
    their own). If texts are unknown, the ids or the order must be the same.

    Raises:
        UserError: a run was tested on other sentences than the first one.
    """
    first = loaded[0].gold
    digest = content_digest(_bare(first))
    golds = [first if item.gold == first else _in_order_of(first, item.gold) for item in loaded]
    for source, gold in zip(sources, golds, strict=True):
        if gold is not first and content_digest(_bare(gold)) != digest:
            raise _different(sources[0], first, source, gold)
    # Some readers keep the posts and others do not: take them from the first run that has them.
    posts = next((gold for gold in golds if any(sentence.post_id for sentence in gold)), first)
    systems = []
    for source, gold, item in zip(sources, golds, loaded, strict=True):
        names = {theirs.id: ours.id for theirs, ours in zip(gold, first, strict=True)}
        taken = set(names.values())
        sentences = gold
        if gold is not first or posts is not first:
            sentences = [
                dataclasses.replace(theirs, id=ours.id, post_id=in_post.post_id, entities=ours.entities)
                for theirs, ours, in_post in zip(gold, first, posts, strict=True)
            ]
        answers = [_named(answer, _renamed(answer.id, names, taken)) for answer in item.predictions]
        systems.append(System(source.name, sentences, answers))
    return systems, digest


def _in_order_of(first: Sequence[Sentence], sentences: Sequence[Sentence]) -> Sequence[Sentence]:
    """Sort sentences into the order of `first` by ids, else by content; the k-th of equal sentences matches its k-th.

    If neither the ids nor the contents match, the order stays as it is.
    """
    by_id = {sentence.id: sentence for sentence in sentences}
    if len(by_id) == len(first) == len(sentences) and by_id.keys() == {sentence.id for sentence in first}:
        sentences = [by_id[sentence.id] for sentence in first]
    wanted, given = ([(one.text, annotation_of(one.entities)) for one in each] for each in (first, sentences))
    if wanted == given or Counter(wanted) != Counter(given) or not all(text for text, _ in wanted):
        return sentences
    alike: dict[object, deque[Sentence]] = {}
    for content, sentence in zip(given, sentences, strict=True):
        alike.setdefault(content, deque()).append(sentence)
    return [alike[content].popleft() for content in wanted]


def _renamed(name: str, names: Mapping[str, str], taken: set[str]) -> str:
    """Return an answer's id in the first run.

    An answer with an unknown id is renamed if the first run uses that id, so that it is not matched there.
    """
    return names.get(name) or (f"unknown: {name}" if name in taken else name)


def _named(answer: Prediction, name: str) -> Prediction:
    """Return an answer with this id: itself if it has that already, as it has where all runs name sentences alike."""
    return answer if answer.id == name else dataclasses.replace(answer, id=name)


def _bare(sentences: Sequence[Sentence]) -> list[Sentence]:
    """Reduce sentences to what must be the same in all runs: texts in this order, and entities in a fixed order."""
    return [Sentence(str(index), s.text, list(annotation_of(s.entities))) for index, s in enumerate(sentences)]


def _different(source: RunFiles, ours: Sequence[Sentence], other: RunFiles, theirs: Sequence[Sentence]) -> UserError:
    """Return the error for two test sets that differ."""
    units = ["span" if has_places(sentences) else "pair" for sentences in (ours, theirs)]
    if _pairs(ours) == _pairs(theirs):
        found = f"{source.name} is measured by {units[0]} and {other.name} by {units[1]}: only one gold has offsets"
        fix = "Name the predictions files of both, and the gold with offsets for them: gold=<file>."
        if units[0] == units[1]:
            found = f"the gold of {other.name} has the entities of {source.name} at other places; versions of OmniNER "
            found += "locate those of files without offsets differently"
            fix = "Name the predictions files of both, and one gold for them: gold=<file>."
        return UserError("runs", found, fix)
    digests = [content_digest(_bare(sentences)) for sentences in (ours, theirs)]
    found = f"{other.name} was tested on other sentences than {source.name} (digests {digests[1]} and {digests[0]}"
    if len(ours) != len(theirs):
        found += f"; {len(theirs):,} and {counted(len(ours), 'sentence')})"
    else:
        wrong = [i for i, pair in enumerate(zip(_bare(ours), _bare(theirs), strict=True)) if pair[0] != pair[1]]
        found += f"; {len(wrong):,} of {len(ours):,} differ, the first is {theirs[wrong[0]].id!r})"
    if differ := config_differences([source, other]):
        keys = [f"{key} {before} and {after}" for key, (before, after) in differ.items()]
        data = [key for key in keys if key.startswith(("data.", "input"))] or keys
        found += f"; their configurations differ in {'; '.join(data[:5])}"
    fix = "Compare runs on one test set: predict it with both (task=predict), or name the common gold with gold=<file>."
    return UserError("runs", found, fix)


def _pairs(sentences: Sequence[Sentence]) -> list[tuple[str, list[tuple[str, str]]]]:
    """Return each sentence's text, and the (text, category) pairs of its entities, sorted."""
    return [(sentence.text, sorted(entity[:2] for entity in sentence.entities)) for sentence in sentences]


def config_differences(sources: Sequence[RunFiles]) -> dict[str, list[Any]]:
    """Return the configuration keys whose values differ between runs, with the value of each run.

    A run without a configuration has the value `UNKNOWN`.
    """
    known = [source.config for source in sources if source.config]
    keys = sorted({key for config in known[1:] for key in run_config.differences(config, known[0])})
    whole = [with_class_defaults(Config, source.config) if source.config else {} for source in sources]
    every = [flat(config) for config in whole]
    return {
        key: [values.get(key) if values else UNKNOWN for values in every]
        for key in keys
        if key.split(".")[0] not in NOT_COMPARED
    }


def _check(config: Config) -> None:
    given = count_runs(config.runs)
    if given < (1 if config.annotators else 2):
        fix = "Set runs=[a,b,...]: MLflow run ids, names of runs, run folders, folders of sweeps or predictions files; "
        fix += "one is enough with annotators=[...]."
        raise UserError("runs", f"task=compare needs two or more, {given} given", fix)


TASK = Task(
    name="compare",
    description=__doc__,
    run=run,
    label=lambda config: ["compare", *(entry_label(entry) for entry in config.runs[:2])],
    inputs=[Input("gold", folder_allowed=False)],
    check=_check,
    outputs=["comparison.html", "comparison.json", "comparison.md", "tables", "figures", "latex"],
    settings=lambda config: ["runs", "annotators", "metrics", "errta"],
)
