"""How many sentences a CPU second scores, beside seqeval and nervaluate on the same sentences, interleaved.

    python experiments/score_speed/run.py [--sentences 19557] [--peer-sentences 2000] [--rounds 5]

Everything is generated: sentences of the packaged corpus, predictions by disturbing their gold. CPU seconds of this
process, one thread; each figure is the median of the rounds.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

from omniner.config.groups import ErrtaConfig, MetricsConfig
from omniner.corpus.formats import jsonl
from omniner.corpus.sample import generate_sample
from omniner.files import write_json_lines, write_text
from omniner.records import Entity, Prediction, Sentence, prediction_to_json, to_line
from omniner.report import tables
from omniner.scoring import predictions
from omniner.scoring.metrics import ScoreResult
from omniner.scoring.scorer import score_loaded, score_records

# Shares of gold mentions: about the error level of a fine-tuned model on 90 categories (F1 near 0.75).
MISSED, RENAMED, SHIFTED, SPLIT, SPURIOUS = 0.08, 0.08, 0.07, 0.02, 0.10


def disturbed(sentence: Sentence, categories: Sequence[str], rng: random.Random) -> list[Entity]:
    """A prediction for a sentence: its gold with mistakes, no two mentions overlapping."""
    found: list[tuple[int, int, str]] = []
    for entity in sentence.entities:
        start, end, category = entity.start or 0, entity.end or 0, entity.category
        kind = rng.random()
        if kind < MISSED:
            continue
        if kind < MISSED + RENAMED:
            category = rng.choice(categories)
        elif kind < MISSED + RENAMED + SHIFTED:
            start, end = (start, end + 1) if rng.random() < 0.5 or end - start < 2 else (start + 1, end)
        elif kind < MISSED + RENAMED + SHIFTED + SPLIT and end - start > 1:
            cut = rng.randrange(start + 1, end)
            found.append((start, cut, category))
            start = cut
        found.append((start, end, category))
    if rng.random() < SPURIOUS * len(sentence.entities):
        start = rng.randrange(len(sentence.text))
        found.append((start, start + rng.randrange(1, 5), rng.choice(categories)))
    kept: list[Entity] = []
    for start, end, category in sorted(found):
        if end <= len(sentence.text) and (not kept or start >= (kept[-1].end or 0)):
            kept.append(Entity(sentence.text[start:end], category, start, end))
    return kept


def bare(entities: Sequence[Entity]) -> list[Entity]:
    return [Entity(entity.text, entity.category) for entity in entities]


def tags(sentence: Sentence, entities: Sequence[Entity]) -> list[str]:
    row = ["O"] * len(sentence.text)
    for _, category, start, end in entities:
        if start is not None and end is not None:
            row[start:end] = [f"B-{category}", *[f"I-{category}"] * (end - start - 1)]
    return row


def without_overlaps(entities: Sequence[Entity]) -> list[Entity]:
    kept: list[Entity] = []
    for entity in sorted(entities, key=lambda e: (e.start or 0, e.end or 0)):
        if not kept or (entity.start or 0) >= (kept[-1].end or 0):
            kept.append(entity)
    return kept


def cpu(work: Callable[[], Any]) -> tuple[float, Any]:
    gc.collect()  # so that none pays for what another left behind
    start = time.process_time()
    value = work()
    return time.process_time() - start, value


def seqeval_score(gold: list[list[str]], predicted: list[list[str]]) -> float:
    from seqeval.metrics import classification_report

    return float(classification_report(gold, predicted, output_dict=True, zero_division=0)["micro avg"]["f1-score"])


def nervaluate_score(gold: list[list[str]], predicted: list[list[str]], categories: Sequence[str]) -> float:
    from nervaluate import Evaluator

    result = Evaluator(gold, predicted, tags=list(categories), loader="list").evaluate()
    return float(result["overall"]["strict"].f1)


class Work:
    """The sentences, their predictions with and without offsets, and the files to read them from."""

    def __init__(self, count: int, peers: int, folder: Path) -> None:
        self.sentences = generate_sample({"test": count}, 7)["test"]
        rng = random.Random(13)
        categories = sorted({entity.category for sentence in self.sentences for entity in sentence.entities})
        self.categories = categories
        for sentence in self.sentences:
            sentence.entities = without_overlaps(sentence.entities)
        answers = [disturbed(sentence, categories, rng) for sentence in self.sentences]
        names = [sentence.id for sentence in self.sentences]
        self.spans = [Prediction(name, answer) for name, answer in zip(names, answers, strict=True)]
        self.pairs = [Prediction(name, bare(answer)) for name, answer in zip(names, answers, strict=True)]
        self.pair_gold = [Sentence(s.id, s.text, bare(s.entities), s.post_id) for s in self.sentences]
        self.gold_tags = [tags(s, s.entities) for s in self.sentences[:peers]]
        self.predicted_tags = [tags(s, a) for s, a in zip(self.sentences[:peers], answers, strict=False)]
        self.generated = folder / "generated_predictions.jsonl"
        self.own = folder / "predictions.jsonl"
        pairs = zip(self.sentences, answers, strict=True)
        write_text(self.generated, "".join(f"{_generated_line(s, a)}\n" for s, a in pairs))
        write_json_lines(self.own, map(prediction_to_json, self.spans))
        jsonl.write(folder / "gold.jsonl", self.sentences)


def _generated_line(sentence: Sentence, answer: Sequence[Entity]) -> str:
    label, predict = ([[e.text, e.category] for e in units] for units in (sentence.entities, answer))
    texts = {"label": json.dumps(label, ensure_ascii=False), "predict": json.dumps(predict, ensure_ascii=False)}
    return to_line({"prompt": sentence.text, **texts})


def settings(unit: str, profile: str, mode: str, draws: int) -> tuple[MetricsConfig, ErrtaConfig]:
    metrics = MetricsConfig(
        unit=unit, profile=profile, on_parse_failure="empty", bootstrap=draws, confidence=0.95, seed=0
    )
    return metrics, ErrtaConfig(mode=mode, examples=50, top=100)


def jobs(work: Work) -> dict[str, tuple[int, Callable[[], Any]]]:
    """Name -> (sentences, what to time)."""
    pair = settings("pair", "own", "official", 0)
    official = settings("pair", "official", "official", 0)
    span = settings("span", "own", "span", 0)
    span_ci = settings("span", "own", "span", 1000)
    count, peers = len(work.sentences), len(work.gold_tags)

    def tabled(result: ScoreResult, errta: ErrtaConfig) -> ScoreResult:
        tables.build_run_tables(result, errta, None, ())
        return result

    loaded = predictions.read_predictions(work.generated, None)
    return {
        "official metrics + ERRTA": (count, lambda: score_loaded(loaded, *official)),
        "official metrics + ERRTA + tables": (count, lambda: tabled(score_loaded(loaded, *official), official[1])),
        "the same with reading": (
            count,
            lambda: tabled(score_loaded(predictions.read_predictions(work.generated, None), *official), official[1]),
        ),
        "pair metrics + official ERRTA": (count, lambda: score_records(work.pair_gold, work.pairs, *pair)),
        "span metrics + span ERRTA": (count, lambda: score_records(work.sentences, work.spans, *span)),
        "span metrics + span ERRTA + tables": (
            count,
            lambda: tabled(score_records(work.sentences, work.spans, *span), span[1]),
        ),
        "span, 1000 bootstrap draws too": (count, lambda: score_records(work.sentences, work.spans, *span_ci)),
        "span with reading": (count, lambda: score_loaded(predictions.read_predictions(work.own, None), *span)),
        "seqeval": (peers, lambda: seqeval_score(work.gold_tags, work.predicted_tags)),
        "nervaluate": (peers, lambda: nervaluate_score(work.gold_tags, work.predicted_tags, work.categories)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sentences", type=int, default=19557)
    parser.add_argument("--peer-sentences", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default="", help="part of the names of the jobs to run")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        work = Work(options.sentences, options.peer_sentences, Path(folder))
        chosen = {name: job for name, job in jobs(work).items() if options.only in name}
        seconds: dict[str, list[float]] = {name: [] for name in chosen}
        for _ in range(options.rounds):
            for name, (_, job) in chosen.items():
                seconds[name].append(cpu(job)[0])
        metrics, errta = settings("span", "own", "span", 0)
        result = score_records(work.sentences, work.spans, metrics, errta)
    entities = sum(len(sentence.entities) for sentence in work.sentences) / len(work.sentences)
    print(f"{options.sentences} sentences, {entities:.2f} mentions each; Python {sys.version.split()[0]}")
    print(f"span micro F1 of the predictions {result.metrics.micro.f1:.4f}, errors {result.errta.counts}")
    print(f"{'what':<38}{'sentences':>10}{'CPU s':>9}{'per CPU s':>11}")
    for name, times in seconds.items():
        middle, count = statistics.median(times), chosen[name][0]
        print(f"{name:<38}{count:>10}{middle:>9.3f}{count / middle:>11,.0f}")


if __name__ == "__main__":
    main()
