"""Compare runs on the same sentences with the first of them.

Every run is scored in the same way; each but the first gets its tested differences (`score.resampling`) and the
sentences that became right or wrong. Where one run has no offsets, all are scored by pair, and where one's errors
cannot be sorted by position, all are sorted as the official scripts do: figures stand beside each other only if they
mean the same. Annotators' labels of the same sentences are scored alike, too, each one's on the sentences that they
labelled, and stand beside the runs as one mean; they are not tested. Price: that of scoring each run, and a few seconds
of tests per run at 19,557 sentences.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from omniner import __version__
from omniner.config.groups import CompareConfig, ErrtaConfig, MetricsConfig
from omniner.records import Prediction, Sentence
from omniner.scoring import human
from omniner.scoring.profiles import score_records
from omniner.scoring.resampling import (
    Significance,
    counted_categories,
    counts_per_post,
    holm,
    paired_tests,
    post_numbers,
    smallest_p,
)
from omniner.scoring.results import ScoreResult


@dataclass(frozen=True, slots=True)
class System:
    """The answers of a run, or the labels of an annotator.

    `gold` has the same ids and entities, in the same order, for all runs of a comparison; for an annotator it may be a
    part of that.
    """

    name: str
    gold: Sequence[Sentence]
    predictions: Sequence[Prediction]


@dataclass(frozen=True, slots=True)
class TestedRun:
    """A run against the baseline. A sentence is right where nothing is missing and nothing extra."""

    name: str
    significance: Significance
    p_corrected: float  # of micro F1 by randomisation, by Holm over all runs against the baseline
    gained: list[str]  # ids of sentences that the baseline has wrong and this run right
    lost: list[str]  # the other way round


@dataclass(frozen=True, slots=True)
class RunComparison:
    """What a comparison found; the first of `results` is the baseline."""

    results: Mapping[str, ScoreResult]  # by name of the run
    tested: list[TestedRun]
    sentences: int
    posts: int
    unit_of_chance: str  # posts | sentences: what was drawn and exchanged
    settings: CompareConfig
    annotators: Mapping[str, ScoreResult]  # by name of the annotator; empty where none is compared

    @property
    def baseline(self) -> str:
        """The name of the first run."""
        return next(iter(self.results))

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
        """Whether the draws are too few for any category to be significant after the correction."""
        return smallest_p(self.settings.permutations, len(run.significance.categories)) >= self.settings.alpha

    def to_json(self) -> dict[str, Any]:
        """The content of `comparison.json`."""
        return {
            "baseline": self.baseline,
            "sentences": self.sentences,
            "posts": self.posts if self.unit_of_chance == "posts" else None,
            "signature": self.signature,
            "runs": {name: result.to_json() for name, result in self.results.items()},
            "people": {name: result.to_json() for name, result in self.annotators.items()},
            "human": human.human_json(self.annotators) if self.annotators else None,
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
        annotators: whose labels stand beside the runs.
    """
    scored = _score_alike([*systems, *annotators], metrics, errta)
    results = {system.name: result for system, result in zip(systems, scored, strict=False)}
    theirs = {annotator.name: result for annotator, result in zip(annotators, scored[len(systems) :], strict=True)}
    gold = systems[0].gold
    numbers = post_numbers(gold)
    post_of = {sentence.id: number for sentence, number in zip(gold, numbers, strict=True)}
    baseline = results[systems[0].name]
    tests = {system.name: _test(baseline, results[system.name], post_of, settings) for system in systems[1:]}
    corrected = holm([test.figures["micro.f1"].p_randomisation for test in tests.values()])
    tested = [
        TestedRun(name, test, p, *_flips(gold, baseline, results[name]))
        for (name, test), p in zip(tests.items(), corrected, strict=True)
    ]
    in_posts = any(sentence.post_id for sentence in gold)
    chance = "posts" if in_posts else "sentences"
    return RunComparison(results, tested, len(gold), 1 + max(numbers), chance, settings, theirs)


def _score_alike(systems: Sequence[System], metrics: MetricsConfig, errta: ErrtaConfig) -> list[ScoreResult]:
    results = [score_records(c.gold, c.predictions, metrics, errta) for c in systems]
    if len({result.unit for result in results}) > 1:
        metrics = dataclasses.replace(metrics, unit="pair")
    if len({result.mode for result in results}) > 1:
        errta = dataclasses.replace(errta, mode="official")
    for place, (c, result) in enumerate(zip(systems, results, strict=True)):
        asked = (metrics.unit, result.unit), (errta.mode, result.mode)
        if any(wanted not in ("auto", found) for wanted, found in asked):
            results[place] = score_records(c.gold, c.predictions, metrics, errta)
    return results


def _test(
    baseline: ScoreResult, other: ScoreResult, post_of: Mapping[str, int], settings: CompareConfig
) -> Significance:
    """A sentence that a run's scores leave out (unreadable, where the settings say so) counts nothing for that run."""
    names = counted_categories([baseline.comparison, other.comparison])
    count = 1 + max(post_of.values())
    before, after = (
        counts_per_post(result.comparison, [post_of[name] for name in result.scored], count, names)
        for result in (baseline, other)
    )
    return paired_tests(before, after, names, settings)


def _flips(gold: Sequence[Sentence], baseline: ScoreResult, other: ScoreResult) -> tuple[list[str], list[str]]:
    before, after = _right(baseline), _right(other)
    gained = [s.id for s in gold if s.id in after and s.id not in before]
    lost = [s.id for s in gold if s.id in before and s.id not in after]
    return gained, lost


def _right(result: ScoreResult) -> set[str]:
    wrong = {residue.sentence for residue in result.comparison.residues}
    return {name for place, name in enumerate(result.scored) if place not in wrong}
