"""Guidance of any size about made-up errors, as `task=guide` without a teacher makes it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence

from tests.helpers import made_up

from omniner.config.model_groups import PromptConfig
from omniner.guidance.clusters import TrainingCounts, build_lesson, cluster_errors
from omniner.guidance.lessons import Candidate, Guidance, Lesson, Note, SuspectLabel, Tried
from omniner.guidance.prompt_errors import LengthFunction, log_errors_text, render_errors_text, with_errors_text
from omniner.records import Sentence
from omniner.scoring.metrics import ErrtaError

CATEGORIES = ["品牌_国货", "品类_产品", "时间", "地点_城市", "体验_使用体验", "人群"]


def guidance(
    sentences: int = 300, seed: int = 0, examples: int = 4, categories: Sequence[str] = CATEGORIES
) -> Guidance:
    """Notes on the errors of a made-up run; its own gold stands for the training split."""
    result = made_up.result(sentences, seed=seed, categories=list(categories))
    found = cluster_errors(result.errta.errors)
    train = TrainingCounts(list(result.sentences.values()))
    texts = {name: sentence.text for name, sentence in result.sentences.items()}
    lessons = [build_lesson(cluster, train, texts, examples, 5) for cluster in found]
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


def tried(given: Guidance) -> Guidance:
    """The same where each lesson had two rules of the teacher `other` to choose from; every other one was tried."""
    found = []
    for number, lesson in enumerate(given.lessons):
        rules = [
            Note("other", {"zh": f"第{n}条：先看{lesson.gold or lesson.predicted}"}, {"zh": "因为"}) for n in (1, 2)
        ]
        best = rules[number % 4 // 2] if number % 2 else lesson.note
        candidates = [
            Candidate(note, note is best, Tried(5, 5 - (note is best)), Tried(5, place), Tried(6, 4), Tried(4, place))
            if number % 2
            else Candidate(note, note is best)
            for place, note in enumerate((lesson.note, *rules))
        ]
        found.append(dataclasses.replace(lesson, note=best, candidates=candidates))
    teacher = {"kind": "openai", "name": "other", "asked": 9, "cached": 2, "prompt_tokens": 10, "completion_tokens": 5}
    controls = [dataclasses.replace(one, verdict="usual", reason="因为") for one in given.suspects]
    return dataclasses.replace(given, lessons=found, controls=controls, teacher={**teacher, "dropped": 4})


def lesson_of(error: ErrtaError, text: str, train: Sequence[Sentence] = ()) -> Lesson:
    """The lesson of a single error."""
    (cluster,) = cluster_errors([error])
    return build_lesson(cluster, TrainingCounts(train), {error.sentence_id: text}, 1, 5)


def applied(config: PromptConfig, guidance: Guidance, categories: Sequence[str], count: LengthFunction) -> PromptConfig:
    """The prompt with the guidance in it, as a run makes it."""
    text = render_errors_text(guidance, config, categories, count)
    log_errors_text(config, guidance, categories, text)
    return with_errors_text(config, guidance, text)


def teacher_note(question: str) -> str:
    """The answer of a teacher who has nothing to say but names the categories, as a good answer must."""
    about = question.partition("）：")[2].partition("\n")[0]
    note = {"cause": "没有看上下文", "rule": f"先通读整句再标注：{about}", "doubtful": []}
    return json.dumps(note, ensure_ascii=False)
