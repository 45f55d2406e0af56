"""Guidance of any size about made-up errors, as `task=guide` without a teacher makes it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from tests.helpers import made_up

from omniner.guidance import clusters, notes
from omniner.guidance.clusters import TrainingCounts
from omniner.guidance.lessons import Guidance, Lesson, LessonExample, Note, SuspectLabel
from omniner.records import Sentence
from omniner.scoring.results import ErrtaError

CATEGORIES = ["品牌_国货", "品类_产品", "时间", "地点_城市", "体验_使用体验", "人群"]


def guidance(
    sentences: int = 300, seed: int = 0, examples: int = 4, categories: Sequence[str] = CATEGORIES
) -> Guidance:
    """Notes on the errors of a made-up run; its own gold stands for the training split."""
    result = made_up.result(sentences, seed=seed, categories=list(categories))
    found = clusters.cluster_errors(result.errta.errors)
    train = TrainingCounts(list(result.sentences.values()))
    lessons = [_lesson(cluster, train, result.sentences, examples) for cluster in found]
    return Guidance(
        source={"run": "a" * 32, "name": "made-up", "folder": "nowhere", "model": "m", "data": "d", "guide": "g"},
        split="dev",
        from_test=False,
        scores={"sentences": sentences, "precision": 0.5, "recall": 0.5, "f1": 0.5, "errors": len(result.errta.errors)},
        types={name: count.errors for name, count in result.errta.by_type.items()},
        teacher={"kind": "none"},
        lessons=lessons,
        suspects=[SuspectLabel("上海", "品牌_国货", "地点_城市", 0.9, 20, 2, 1, "test-0", "去上海", "", "")],
        rest={"clusters": 0, "errors": 0},
    )


def taught(given: Guidance, rule: str, language: str = "zh") -> Guidance:
    """The same with a teacher's note on every lesson."""
    note = Note("a teacher", {language: rule}, {language: "因为" if language == "zh" else "because"})
    return dataclasses.replace(given, lessons=[dataclasses.replace(lesson, note=note) for lesson in given.lessons])


def lesson_of(error: ErrtaError, text: str, train: Sequence[Sentence] = ()) -> Lesson:
    """The lesson of a single error."""
    (cluster,) = clusters.cluster_errors([error])
    return _lesson(cluster, TrainingCounts(train), {error.sentence_id: Sentence(error.sentence_id, text)}, 1)


def _lesson(cluster: clusters.Cluster, train: TrainingCounts, sentences: dict[str, Sentence], examples: int) -> Lesson:
    texts = {name: sentence.text for name, sentence in sentences.items()}
    facts = train.facts(cluster, 5)
    chosen = [
        LessonExample(
            error.sentence_id, error.type, texts[error.sentence_id], error.gold, error.predicted, doubtful=False
        )
        for error in clusters.cluster_examples(cluster, texts, examples)
    ]
    note = notes.counted_note(cluster.kind, cluster.gold, cluster.predicted, facts)
    return Lesson(
        cluster.kind, cluster.gold, cluster.predicted, len(cluster.errors), cluster.types,
        cluster.surfaces[:5], chosen, facts, note,
    )  # fmt: skip
