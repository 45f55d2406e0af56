"""Compare runs, and annotators beside them, on the same sentences.

Every run is scored in the same way. Each run but the first also gets tested differences (`scoring.resampling`) and the
lists of sentences that became right or wrong. The unit and the ERRTA mode are chosen from the shared gold. Cost: that
of scoring each run, plus a few seconds of tests per run at 19,557 sentences.

Human performance (section 4.2 of the paper) is measured in the same way: an annotator's labels become predictions. Each
annotator is scored only on the gold sentences that they labelled; a sentence that they never saw says nothing about
them. `coverage_notes` reports how many these are. Annotators appear beside the runs as one mean and are not tested. If
gold was made from the labels of the same annotators, they agree with it more than others would.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from omniner.config.groups import CompareConfig, ErrtaConfig, MetricsConfig
from omniner.corpus.align import ids_by_text
from omniner.progress import Progress, timed
from omniner.records import Issue, Prediction, Sentence, is_unlabeled
from omniner.scoring.metrics import ScoreResult, ScoreRow
from omniner.scoring.resampling import (
    Significance,
    counted_categories,
    counts_per_post,
    holm,
    paired_tests,
    post_numbers,
    smallest_p,
)
from omniner.scoring.scorer import score_records, settle_scale
from omniner.version import __version__
from omniner.wording import Wording, counted

HUMAN = "human"  # name of the mean over annotators beside runs
SCORES = ("precision", "recall", "f1")
MICRO, MACRO = "all (micro)", "all (macro)"


class Spread(NamedTuple):
    """A score over several annotators: mean, sample standard deviation (0 for one annotator), lowest, highest."""

    mean: float
    deviation: float
    lowest: float
    highest: float


def human_predictions(
    name: str, sentences: Sequence[Sentence], gold: Sequence[Sentence]
) -> tuple[list[Prediction], list[Issue]]:
    """Convert an annotator's labels of the gold sentences to predictions.

    Sentences are matched by id. If texts match more of them (readers number sentences without ids), the k-th of equal
    texts is matched with the k-th in gold.

    Args:
        name: of the annotator.
        sentences: those that they labelled; may include more than the test set.
        gold: the test set.

    Returns:
        The predictions, and an issue for each sentence with a different text or without labels.
    """
    texts = {sentence.id: sentence.text for sentence in gold}
    predictions, issues = [], []
    ids = ids_by_text(sentences, texts) or [sentence.id for sentence in sentences]
    for id, sentence in zip(ids, sentences, strict=True):
        if id is None or id not in texts:
            continue  # an annotator's file may hold more than the test set
        if sentence.text != texts[id]:
            issues.append(Issue("text-mismatch", f"{name} labelled another text; not scored", id=id))
        elif is_unlabeled(sentence):
            issues.append(Issue("not-annotated", f"{name} has the sentence without labels", id=id))
        else:
            predictions.append(Prediction(id, sentence.entities, engine=f"human {name}"))
    return predictions, issues


def labelled_gold(gold: Sequence[Sentence], predictions: Sequence[Prediction]) -> list[Sentence]:
    """Return the gold sentences that an annotator has labelled, on which they are scored."""
    done = {prediction.id for prediction in predictions}
    return [sentence for sentence in gold if sentence.id in done]


def coverage_notes(results: Mapping[str, ScoreResult], sentences: int) -> list[str]:
    """Return a note for each annotator who labelled only a part of the gold sentences."""
    return [
        Wording(
            "{name} labelled {labelled:,} of {sentences:,} sentences and is scored on those alone",
            name=name, labelled=len(result.predictions), sentences=sentences,
        )
        for name, result in results.items()
        if len(result.predictions) < sentences
    ]  # fmt: skip


def summarise_scores(values: Sequence[float]) -> Spread:
    """Compute mean and spread of one score over annotators."""
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return Spread(statistics.fmean(values), deviation, min(values), max(values))


def human_rows(results: Mapping[str, ScoreResult]) -> dict[str, dict[str, ScoreRow]]:
    """Return every annotator's scores, overall and for every primary.

    Returns:
        `MICRO`, `MACRO` or a primary -> name -> score; a primary only lists annotators who met or used it.
    """
    found = {MICRO: {name: result.metrics.micro for name, result in results.items()}}
    found[MACRO] = {name: result.metrics.macro for name, result in results.items()}
    for primary in sorted({name for result in results.values() for name in result.metrics.primaries}):
        rows = {name: result.metrics.primaries.get(primary) for name, result in results.items()}
        found[primary] = {name: row.strict for name, row in rows.items() if row is not None}
    return found


def human_json(results: Mapping[str, ScoreResult]) -> dict[str, dict[str, dict[str, float]]]:
    """Return the part for `agreement.json`: overall or primary -> score -> mean and spread over the annotators."""
    return {
        name: {score: summarise_scores([getattr(row, score) for row in rows.values()])._asdict() for score in SCORES}
        for name, rows in human_rows(results).items()
    }


@dataclass(frozen=True, slots=True)
class System:
    """The answers of a run, or the labels of an annotator.

    `gold` has the same ids and entities, in the same order, for all runs of a comparison; for an annotator it may be a
    subset of that.
    """

    name: str
    gold: Sequence[Sentence]
    predictions: Sequence[Prediction]


@dataclass(frozen=True, slots=True)
class TestedRun:
    """A run tested against the baseline. A sentence that both scored is right if nothing is missing or extra."""

    name: str
    significance: Significance
    p_corrected: float  # of micro F1 by randomisation, Holm-corrected over all runs against the baseline
    gained: list[str]  # ids of sentences that this run has right and the baseline wrong
    lost: list[str]  # the other way round


@dataclass(frozen=True, slots=True, repr=False)
class RunComparison:
    """The result of a comparison; the first of `results` is the baseline."""

    results: Mapping[str, ScoreResult]  # by name of the run
    tested: list[TestedRun]
    sentences: int
    posts: int
    unit_of_chance: str  # posts | sentences: the unit that was drawn and exchanged
    settings: CompareConfig
    annotators: Mapping[str, ScoreResult]  # by name of the annotator; empty if none is compared

    def __repr__(self) -> str:
        runs = "; ".join(f"{name}: {result.metrics.micro.brief()}" for name, result in self.results.items())
        return (
            f"<RunComparison of {counted(len(self.results), 'run')} on {counted(self.sentences, 'sentence')}; {runs}>"
        )

    @property
    def baseline(self) -> str:
        """The name of the first run."""
        return next(iter(self.results))

    @property
    def has_levels(self) -> bool:
        """Whether categories have primaries above them."""
        return any(result.has_levels for result in self.results.values())

    @property
    def signature(self) -> str:
        """How the differences were tested, in one line."""
        settings, result = self.settings, self.results[self.baseline]
        parts = {
            "randomisation": f"{settings.permutations}x{self.unit_of_chance}",
            "bootstrap": f"{settings.resamples}x{self.unit_of_chance}@{settings.confidence:g}",
            "seed": str(settings.seed),
            "correction": "holm",
            "profile": result.profile,
            "unit": result.unit,
            "errta": result.mode,
            "version": __version__,
        }
        return "|".join(f"{name}:{value}" for name, value in parts.items())

    def undecidable(self, run: TestedRun) -> bool:
        """Whether there are too few draws for any category to be significant after the correction."""
        return smallest_p(self.settings.permutations, run.significance.family) >= self.settings.alpha

    def to_json(self) -> dict[str, Any]:
        """Return the content of `comparison.json`."""
        return {
            "baseline": self.baseline,
            "sentences": self.sentences,
            "posts": self.posts if self.unit_of_chance == "posts" else None,
            "signature": self.signature,
            "runs": {name: result.to_json() for name, result in self.results.items()},
            "people": {name: result.to_json() for name, result in self.annotators.items()},
            "human": human_json(self.annotators) if self.annotators else None,
            "against_baseline": {
                run.name: {
                    "figures": {name: row._asdict() for name, row in run.significance.figures.items()},
                    "p_corrected_over_runs": run.p_corrected,
                    "categories": {
                        name: {**row._asdict(), "p_corrected": run.significance.corrected[name]}
                        for name, row in run.significance.categories.items()
                    },
                    "gained": run.gained,
                    "lost": run.lost,
                }
                for run in self.tested
            },
        }


def compare_runs(
    systems: Sequence[System],
    metrics: MetricsConfig,
    errta: ErrtaConfig,
    settings: CompareConfig,
    annotators: Sequence[System] = (),
) -> RunComparison:
    """Score all runs and annotators alike, and test each run against the first.

    Args:
        systems: the runs, on the same sentences.
        metrics: unit, profile, intervals.
        errta: how errors are sorted.
        settings: of the tests.
        annotators: whose scores appear beside the runs.
    """
    scored = score_alike(systems[0].gold, [*systems, *annotators], metrics, errta)
    results = {system.name: result for system, result in zip(systems, scored, strict=False)}
    theirs = {annotator.name: result for annotator, result in zip(annotators, scored[len(systems) :], strict=True)}
    gold = systems[0].gold
    numbers = post_numbers(gold)
    post_of = {sentence.id: number for sentence, number in zip(gold, numbers, strict=True)}
    baseline = results[systems[0].name]
    tests = {}
    for system in systems[1:]:
        with timed(f"{system.name} tested against {systems[0].name}"):  # the longest part of large comparisons
            tests[system.name] = _test(baseline, results[system.name], post_of, settings, system.name)
    corrected = holm([test.figures["micro.f1"].p_randomisation for test in tests.values()])
    tested = [
        TestedRun(name, test, p, *_flips(gold, baseline, results[name]))
        for (name, test), p in zip(tests.items(), corrected, strict=True)
    ]
    in_posts = any(sentence.post_id for sentence in gold)
    chance = "posts" if in_posts else "sentences"
    return RunComparison(results, tested, len(gold), 1 + max(numbers), chance, settings, theirs)


def score_alike(
    gold: Sequence[Sentence], systems: Sequence[System], metrics: MetricsConfig, errta: ErrtaConfig
) -> list[ScoreResult]:
    """Score every system with the unit and mode chosen from all gold, even one that answered only part."""
    metrics, errta = settle_scale(gold, metrics, errta)
    scored, progress = [], Progress("predictions files scored", len(systems))
    for system in systems:
        scored.append(score_records(system.gold, system.predictions, metrics, errta))
        progress.add(1)
    return scored


def _test(
    baseline: ScoreResult, other: ScoreResult, post_of: Mapping[str, int], settings: CompareConfig, name: str
) -> Significance:
    """Test a run against the baseline.

    A sentence that is excluded from a run's scores (unreadable, if the settings say so) counts nothing for that run.
    """
    names = counted_categories([baseline.comparison, other.comparison])
    count = 1 + max(post_of.values())
    before, after = (
        counts_per_post(result.comparison, [post_of[name] for name in result.scored], count, names)
        for result in (baseline, other)
    )
    return paired_tests(before, after, names, settings, f"draws that test {name}")


def _flips(gold: Sequence[Sentence], baseline: ScoreResult, other: ScoreResult) -> tuple[list[str], list[str]]:
    both = set(baseline.scored) & set(other.scored)
    before, after = _right(baseline) & both, _right(other) & both
    gained = [s.id for s in gold if s.id in after and s.id not in before]
    lost = [s.id for s in gold if s.id in before and s.id not in after]
    return gained, lost


def _right(result: ScoreResult) -> set[str]:
    wrong = {one.sentence for one in result.comparison.sentence_errors}
    return {name for place, name in enumerate(result.scored) if place not in wrong}
