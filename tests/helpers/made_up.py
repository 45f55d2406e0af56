"""A scored run of any size with a known number of errors of each type, made without the scorer."""

from __future__ import annotations

import random
from collections import Counter

from omniner.corpus.taxonomy import load_taxonomy, primary_of
from omniner.records import Entity, Issue, Prediction, Sentence, with_score
from omniner.scoring.error_types import error_types
from omniner.scoring.metrics import (
    Counts,
    ErrtaError,
    ErrtaResult,
    Interval,
    Metrics,
    ParseFailure,
    ParseSummary,
    PrimaryRow,
    ScoreResult,
    ScoreRow,
    TypeCount,
    calibrate,
    main_scores,
    overlap_scores,
)
from omniner.scoring.units import compare_units, pairs_of

WORDS = (
    "补水面膜 上海 小红书 兰蔻 2024奥运会 Nanci 烟味感 连衣裙 火锅底料 三亚 猫粮 瑜伽垫 空气炸锅 敏感肌 iPhone 羽绒服"
)
BETWEEN = "真的很好用， 我去了 今天吃 推荐给大家！ 和 还有 在家试试 的 闺蜜说 😀 ，价格也不贵"
SURFACES, FILLERS = WORDS.split(), BETWEEN.split()
TYPES = [entry.name for entry in error_types("span")]


def result(sentences: int, error_rate: float = 0.4, seed: int = 0, categories: list[str] | None = None) -> ScoreResult:
    """A run on `sentences` made-up sentences; `error_rate` of the entities go wrong."""
    rng = random.Random(seed)
    names = categories or list(load_taxonomy("omniner2025").categories)
    weights = [1 / (i + 2) for i in range(len(names))]
    gold: dict[str, Sentence] = {}
    predicted: dict[str, Prediction] = {}
    errors: list[ErrtaError] = []
    for n in range(sentences):
        sentence = _sentence(f"test-{n}", rng, names, weights)
        answers: list[Entity] = []
        for entity in sentence.entities:
            wrong = _wrong(sentence, entity, rng, names) if rng.random() < error_rate else None
            kept = wrong is None or wrong.type == "redundant"
            answers.extend([entity] if kept else [])
            answers.extend(wrong.predicted if wrong else [])
            errors.extend([] if wrong is None else [wrong])
        gold[sentence.id] = sentence
        sure = (n % 20 + 1) / 20
        predicted[sentence.id] = Prediction(sentence.id, [with_score(entity, sure) for entity in answers])
    return scored(gold, predicted, errors)


def _sentence(name: str, rng: random.Random, names: list[str], weights: list[float]) -> Sentence:
    text, entities = "", []
    for _ in range(rng.randint(1, 7)):
        text += rng.choice(FILLERS)
        surface = rng.choice(SURFACES)
        category = rng.choices(names, weights)[0]
        entities.append(Entity(surface, category, len(text), len(text) + len(surface)))
        text += surface
    return Sentence(name, text + "。", entities)


def _wrong(sentence: Sentence, entity: Entity, rng: random.Random, names: list[str]) -> ErrtaError:
    assert entity.start is not None
    assert entity.end is not None
    kind = rng.choices(TYPES, [30, 20, 6, 1, 3, 2, 25, 13])[0]
    start, end, category = entity.start, entity.end, entity.category
    other = names[(names.index(category) + rng.choice([1, 1, 1, 2, 3])) % len(names)]

    def cut(low: int, high: int, name: str) -> Entity:
        return Entity(sentence.text[low:high], name, low, high)

    if kind in ("classification", "spelling", "merge"):
        return ErrtaError("classification", sentence.id, (entity,), (cut(start, end, other),))
    if kind == "missing":
        return ErrtaError(kind, sentence.id, (entity,), ())
    if kind == "redundant":  # the entity itself is answered too
        return ErrtaError(kind, sentence.id, (), (cut(start - 1, start, other),))
    if kind == "split":
        return ErrtaError(
            kind, sentence.id, (entity,), (cut(start, start + 1, category), cut(start + 1, end, category))
        )
    return ErrtaError(kind, sentence.id, (entity,), (cut(start, end - 1, category if kind == "boundary" else other),))


def scored(gold: dict[str, Sentence], predicted: dict[str, Prediction], errors: list[ErrtaError]) -> ScoreResult:
    """The result for these errors; scores are counted from the entities by place and category."""
    counts: dict[str, list[int]] = {}
    for name, sentence in gold.items():
        right, said = Counter(sentence.entities), Counter(predicted[name].entities)
        for i, side in enumerate((right & said, said - right, right - said)):
            for entity, times in side.items():
                counts.setdefault(entity.category, [0, 0, 0])[i] += times
    rows = {name: _row(*counts[name]) for name in sorted(counts)}
    primary = {name: primary_of(name) for name in rows}
    grouped: dict[str, list[int]] = {}
    for name, row in rows.items():
        held = grouped.setdefault(primary[name], [0, 0, 0])
        grouped[primary[name]] = [a + b for a, b in zip(held, (row.tp, row.fp, row.fn), strict=True)]
    micro = _row(*(sum(c[i] for c in counts.values()) for i in range(3)))
    mean = _row(micro.tp, micro.fp, micro.fn)._replace(f1=sum(r.f1 for r in rows.values()) / max(1, len(rows)))
    around = {name: Interval(f1 - 0.01, f1 + 0.01) for name, f1 in (("micro.f1", micro.f1), ("macro.f1", mean.f1))}
    metrics = Metrics(
        unit="span",
        micro=micro,
        macro=mean,
        macro_seen=mean,
        weighted=micro,
        categories=rows,
        primaries={name: PrimaryRow(_row(*grouped[name]), _row(*grouped[name])) for name in sorted(grouped)},
        relaxed=micro,
        intervals=around,
        confidence=0.95,
        resamples=1000,
        resampled="posts",
    )
    by_type = {
        name: TypeCount(
            sum(e.type == name for e in errors),
            sum(len(e.gold) for e in errors if e.type == name),
            sum(len(e.predicted) for e in errors if e.type == name),
        )
        for name in TYPES
    }
    with_errors = len({e.sentence_id for e in errors})
    errta = ErrtaResult(
        "span",
        "span",
        errors,
        by_type,
        micro.tp,
        micro.fp,
        micro.fn,
        len(gold),
        with_errors,
    )
    failures = [ParseFailure(name, "failed", "no JSON list", '[["上海", "地址') for name in list(gold)[:3]]
    parse = ParseSummary(len(gold), len(gold), len(gold), len(failures), 0, failures)
    issues = [Issue("no-prediction", "no answer for this sentence", id="test-0")]
    timing = {"read": 0.5, "metrics": 0.25, "errta": 0.75}
    signature = "omniner|unit:span|profile:own|parse:empty|v:0.1.0"
    comparison = compare_units([gold[n].entities for n in gold], [predicted[n].entities for n in gold], "span")
    units = {"pair": main_scores(Counts.of(pairs_of(comparison))), "span": main_scores(Counts.of(comparison))}
    overlap = overlap_scores(errors, micro.tp)
    return ScoreResult(
        "own", metrics, units, overlap, errta, parse, signature, timing, issues,
        gold, predicted, primary, comparison, list(gold), calibrate(comparison),
    )  # fmt: skip


def _row(tp: int, fp: int, fn: int) -> ScoreRow:
    precision, recall = tp / max(1, tp + fp), tp / max(1, tp + fn)
    return ScoreRow(precision, recall, 2 * tp / max(1, 2 * tp + fp + fn), tp + fn, tp, fp, fn)
