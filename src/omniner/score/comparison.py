"""Runs on the same sentences, compared with the first of them.

In go the predictions of two or more runs with their common gold; out comes a `RunComparison`: every run scored in the
same way, and for each but the first the tested differences (`significance`) and the sentences that became right or
wrong. Where one run has no offsets, all are scored by pair, and where one's errors cannot be sorted by position, all
are sorted as the official scripts do: figures stand beside each other only if they mean the same. People's labels of
the same sentences are scored alike, too, each person's on the sentences that they labelled, and stand beside the runs
as one mean; they are not tested. Price: that of scoring each run, and a few seconds of tests per run at 19,557
sentences.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from omniner import __version__
from omniner.config.groups import CompareConfig, ErrtaConfig, MetricsConfig
from omniner.records import Prediction, Sentence
from omniner.score import human
from omniner.score.resampling import (
    Significance,
    counted_categories,
    counts_per_post,
    holm,
    paired_tests,
    post_numbers,
    smallest_p,
)
from omniner.score.results import ScoreResult
from omniner.score.scoring import score


@dataclass(frozen=True, slots=True)
class System:
    """One run or one person.

    `gold` has the same ids and entities, in the same order, for all runs of a comparison; for a person it may be a part
    of that.
    """

    name: str
    gold: Sequence[Sentence]
    predictions: Sequence[Prediction]


@dataclass(frozen=True, slots=True)
class RunDifference:
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
    versus: list[RunDifference]
    sentences: int
    posts: int
    unit_of_chance: str  # posts | sentences: what was drawn and exchanged
    settings: CompareConfig
    people: Mapping[str, ScoreResult]  # by name of the person; empty where nobody's labels are compared

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

    def undecidable(self, versus: RunDifference) -> bool:
        """Whether the draws are too few for any category to be significant after the correction."""
        return smallest_p(self.settings.permutations, len(versus.significance.categories)) >= self.settings.alpha

    def to_json(self) -> dict[str, Any]:
        """The content of `comparison.json`."""
        return {
            "baseline": self.baseline,
            "sentences": self.sentences,
            "posts": self.posts if self.unit_of_chance == "posts" else None,
            "signature": self.signature,
            "runs": {name: result.to_json() for name, result in self.results.items()},
            "people": {name: result.to_json() for name, result in self.people.items()},
            "human": human.human_json(self.people) if self.people else None,
            "against_baseline": {
                versus.name: {
                    "figures": {name: row._asdict() for name, row in versus.significance.figures.items()},
                    "p_corrected_over_runs": versus.p_corrected,
                    "categories": {
                        name: {**row._asdict(), "p_corrected": versus.significance.corrected[name]}
                        for name, row in versus.significance.categories.items()
                    },
                    "gained": versus.gained,
                    "lost": versus.lost,
                }
                for versus in self.versus
            },
        }


def compare_runs(
    contenders: Sequence[System],
    metrics: MetricsConfig,
    errta: ErrtaConfig,
    settings: CompareConfig,
    people: Sequence[System] = (),
) -> RunComparison:
    """Score all runs and people alike and test each run against the first."""
    scored = _score_alike([*contenders, *people], metrics, errta)
    results = {contender.name: result for contender, result in zip(contenders, scored, strict=False)}
    theirs = {person.name: result for person, result in zip(people, scored[len(contenders) :], strict=True)}
    gold = contenders[0].gold
    numbers = post_numbers(gold)
    post_of = {sentence.id: number for sentence, number in zip(gold, numbers, strict=True)}
    baseline = results[contenders[0].name]
    tested = {
        contender.name: _test(baseline, results[contender.name], post_of, settings) for contender in contenders[1:]
    }
    corrected = holm([test.figures["micro.f1"].p_randomisation for test in tested.values()])
    versus = [
        RunDifference(name, test, p, *_flips(gold, baseline, results[name]))
        for (name, test), p in zip(tested.items(), corrected, strict=True)
    ]
    in_posts = any(sentence.post_id for sentence in gold)
    chance = "posts" if in_posts else "sentences"
    return RunComparison(results, versus, len(gold), 1 + max(numbers), chance, settings, theirs)


def _score_alike(contenders: Sequence[System], metrics: MetricsConfig, errta: ErrtaConfig) -> list[ScoreResult]:
    results = [score(c.gold, c.predictions, metrics, errta) for c in contenders]
    if len({result.unit for result in results}) > 1:
        metrics = dataclasses.replace(metrics, unit="pair")
    if len({result.mode for result in results}) > 1:
        errta = dataclasses.replace(errta, mode="official")
    for place, (c, result) in enumerate(zip(contenders, results, strict=True)):
        asked = (metrics.unit, result.unit), (errta.mode, result.mode)
        if any(wanted not in ("auto", found) for wanted, found in asked):
            results[place] = score(c.gold, c.predictions, metrics, errta)
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
