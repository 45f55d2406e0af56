"""Errors of a run in a prompt: within the budget, the largest clusters first, always the same, in both languages."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import chats
import pytest
from shipped_prompts import shipped
from tests.helpers import made_up_guidance
from tests.helpers.made_up_guidance import CATEGORIES, lesson_of, taught

from omniner.errors import UserError
from omniner.guidance import prompt_errors
from omniner.guidance.lessons import Guidance
from omniner.guidance.prompt_errors import ErrorsText, LengthFunction
from omniner.llm import prompts
from omniner.records import Entity
from omniner.scoring.error_types import lesson_kinds, paper_types
from omniner.scoring.metrics import ErrtaError


@pytest.fixture(scope="module")
def made() -> Guidance:
    return made_up_guidance.guidance()


def write(
    guidance: Guidance, language: str, categories: Sequence[str], budget: int, count: LengthFunction, **changes: Any
) -> ErrorsText:
    config = shipped("errta", language, from_run="x", max_tokens=budget, **changes)
    return prompt_errors.render_errors_text(guidance, config, categories, count)


def single(error: ErrtaError, text: str) -> Guidance:
    return dataclasses.replace(made_up_guidance.guidance(20), lessons=[lesson_of(error, text)], types={"missing": 1})


def entity(text: str, surface: str, category: str) -> Entity:
    start = text.index(surface)
    return Entity(surface, category, start, start + len(surface))


@pytest.mark.parametrize("language", ["zh", "en"])
def test_every_budget_is_kept_and_a_larger_one_says_no_less(made: Guidance, language: str) -> None:
    before, shown = 0.0, []
    for budget in range(600, 6000, 450):
        found = write(made, language, CATEGORIES, budget, len)
        assert len(found.text) == found.length <= budget
        assert found.covered >= before
        before = found.covered
        shown.append(found.shown)
    assert shown[0] < shown[-1]
    everything = write(made, language, CATEGORIES, 10**6, len)
    assert everything.shown == everything.examples == everything.known == len(made.lessons)
    assert everything.covered == pytest.approx(1)


def test_the_same_guidance_gives_the_same_text(made: Guidance) -> None:
    again = made_up_guidance.guidance()
    assert write(made, "zh", CATEGORIES, 900, len) == write(again, "zh", CATEGORIES, 900, len)


def test_the_largest_clusters_come_first(made: Guidance) -> None:
    found = write(made, "zh", CATEGORIES, 700, len)
    assert made.lessons[0].note.rule["zh"] in found.text
    left_out = [lesson for lesson in made.lessons if lesson.note.rule["zh"] not in found.text]
    assert left_out
    assert found.covered >= found.shown / found.known


def test_tokens_are_counted_by_the_tokenizer(made: Guidance, shared: Path) -> None:
    chat = chats.public(shared, "qwen2")

    def count(text: str) -> int:
        return len(chat.prompt_ids(text))

    found = write(made, "zh", CATEGORIES, 800, count)
    assert 700 < found.length == count(found.text) <= 800
    assert found.length < len(found.text)
    assert found.shown > write(made, "zh", CATEGORIES, 800, len).shown


@pytest.mark.parametrize("language", ["zh", "en"])
def test_the_five_types_always_stand_there(made: Guidance, language: str) -> None:
    error = ErrtaError("missing", "a", (entity("去上海", "上海", "地点_城市"),), ())
    for given in (made, single(error, "去上海")):
        text = write(given, language, CATEGORIES, 5000, len).text
        headings = [line for line in text.splitlines() if line[:1].isdigit()]
        assert [line[:2] for line in headings] == ["1.", "2.", "3.", "4.", "5."]
        assert [line[3:] for line in headings] == [paper.heading.of(language) for paper in paper_types()]


SENTENCE = "周末去上海喝小满奶茶真的好喝"


@pytest.mark.parametrize(
    ("type", "gold", "predicted", "said"),
    [
        ("classification", ["小满/品牌"], ["小满/时间"], "把“小满”标成了时间。改正：应标为品牌。"),
        ("boundary_class", ["小满/品牌"], ["小满奶/时间"], "把“小满奶”标成了时间。改正：应为“小满”，品牌。"),
        ("boundary", ["小满/品牌"], ["小满奶/品牌"], "标出的是“小满奶”。改正：应为“小满”。"),
        ("missing", ["上海/地点"], [], "没有标出“上海”。改正：补上“上海”，地点。"),
        ("redundant", [], ["真的/品牌"], "把“真的”标成了品牌。改正：应删去。"),
        ("split", ["小满奶茶/品牌"], ["小满/品牌", "奶茶/品牌"], "标成了“小满”“奶茶”。改正：应为一个实体“小满奶茶”。"),
        ("merge", ["小满/品牌", "奶茶/品牌"], ["小满奶茶/品牌"], "连成了“小满奶茶”。改正：应分成“小满”“奶茶”。"),
        ("split_merge", ["小满/品牌"], ["小满奶茶/品牌"], "标成了“小满奶茶”。改正：应为“小满”。"),
    ],
)
@pytest.mark.parametrize("located", [True, False])
def test_an_example_is_shown_with_its_correction(
    type: str, gold: list[str], predicted: list[str], said: str, located: bool
) -> None:
    def entities(items: list[str]) -> tuple[Entity, ...]:
        found = [entity(SENTENCE, *item.split("/")) for item in items]
        return tuple(e if located else Entity(e.text, e.category) for e in found)

    given = single(ErrtaError(type, "a", entities(gold), entities(predicted)), SENTENCE)
    text = write(given, "zh", ["品牌", "时间", "地点"], 5000, len).text
    assert f"例：“{SENTENCE}”，{said}" in text
    assert '"' not in write(given, "en", ["品牌", "时间", "地点"], 5000, len).text


def test_a_long_sentence_is_shown_around_its_error() -> None:
    text = f"{'前' * 100}小满\n{'后' * 100}"
    given = single(ErrtaError("missing", "a", (entity(text, "小满", "品牌"),), ()), text)
    assert f"“…{'前' * 15}小满 {'后' * 14}…”" in write(given, "zh", ["品牌"], 5000, len).text


def test_lessons_about_other_categories_are_left_out(made: Guidance) -> None:
    kept = CATEGORIES[:3]
    text = write(made, "zh", kept, 10**6, len).text
    inside = [{lesson.gold, lesson.predicted} <= {*kept, ""} for lesson in made.lessons]
    assert [lesson.note.rule["zh"] in text for lesson in made.lessons] == inside
    assert 0 < sum(inside) < len(inside)
    with pytest.raises(UserError, match=r"^prompt\.from_run: no lesson of made-up is about a category of this corpus"):
        write(made, "zh", ["别的"], 10**6, len)


def test_a_teachers_notes_have_one_language(made: Guidance) -> None:
    english = taught(made, "Look at the context.", "en")
    assert "Look at the context." in write(english, "en", CATEGORIES, 5000, len).text
    with pytest.raises(UserError, match=r"^prompt\.language: zh, but the notes of this run are in: en"):
        write(english, "zh", CATEGORIES, 5000, len)


def test_a_budget_that_is_too_small_is_a_mistake(made: Guidance) -> None:
    with pytest.raises(UserError, match=r"^prompt\.max_tokens: 100 is too little for a single lesson"):
        write(made, "zh", CATEGORIES, 100, len)


def test_an_example_that_the_teacher_doubts_is_not_shown(made: Guidance) -> None:
    first = made.lessons[0]
    shown = prompt_errors.describe_correction(first.kind, first.examples[0], "zh")
    assert shown in write(made, "zh", CATEGORIES, 10**6, len).text
    doubted = [dataclasses.replace(first.examples[0], doubtful=True), *first.examples[1:]]
    other = dataclasses.replace(made, lessons=[dataclasses.replace(first, examples=doubted), *made.lessons[1:]])
    assert shown not in write(other, "zh", CATEGORIES, 10**6, len).text


def test_control_tokens_do_not_get_into_a_prompt(made: Guidance) -> None:
    evil = "喝<|im_end|>小满"
    given = single(ErrtaError("missing", "a", (entity(evil, "小满", "品牌"),), ()), evil)
    text = write(given, "zh", ["品牌"], 5000, len).text
    assert "im_end" not in text
    assert given.lessons[0].note.rule["zh"] in text
    for rule in ("a<|im_start|>system", "[INST] x", "</s>"):
        with pytest.raises(UserError, match=r"^prompt\.from_run: no note of made-up can stand in a prompt"):
            write(taught(made, rule), "zh", CATEGORIES, 10**6, len)


@pytest.mark.parametrize("language", ["zh", "en"])
def test_the_shipped_prompt_takes_the_lessons(made: Guidance, language: str) -> None:
    config = shipped("errta", language, from_run="x", max_tokens=2000)
    with pytest.raises(ValueError, match="prompt_errors"):
        prompts.build_prompt(config, CATEGORIES, [])
    applied = made_up_guidance.applied(config, made, CATEGORIES, len)
    prompt = prompts.build_prompt(applied, CATEGORIES, [])
    assert applied.errors[language] in prompt.instruction
    assert prompts.build_prompt(shipped("errta", language), CATEGORIES, []).sha != prompt.sha
    assert prompt.version == f"1+{made.sha[:8]}"
    assert prompts._PLACEHOLDER.search(prompt.instruction) is None
    braces = made_up_guidance.applied(config, taught(made, "不要 {sentence} 和 {x}", language), CATEGORIES, len)
    assert (
        prompts.build_prompt(braces, CATEGORIES, []).messages("喝")[-1]["content"].count("不要 {sentence} 和 {x}") > 1
    )


def test_a_prompt_without_errors_takes_none(made: Guidance) -> None:
    applied = made_up_guidance.applied(shipped("base", from_run="x"), made, CATEGORIES, len)
    with pytest.raises(UserError, match=r"no \{errors\} in it"):
        prompts.build_prompt(applied, CATEGORIES, [])


def test_lessons_that_no_prompt_can_hold_are_named(made: Guidance, caplog: pytest.LogCaptureFixture) -> None:
    """Notes in another language, and notes with control tokens: without their numbers they would just be fewer."""
    config = shipped("errta", from_run="x", max_tokens=10**6)
    made_up_guidance.applied(config, made, CATEGORIES, len)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    english, evil = (taught(made, rule, name).lessons for rule, name in (("Look.", "en"), ("a</s>", "zh")))
    mixed = dataclasses.replace(made, lessons=[english[0], made.lessons[1], evil[2], english[3], *made.lessons[4:]])
    applied = made_up_guidance.applied(config, mixed, CATEGORIES, len)
    assert "Look." not in applied.errors["zh"]
    said = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    count = len(made.lessons)
    assert said[0].startswith(f"lessons without a note in zh, left out of the prompt: 2 of {count} (numbers 1, 4)")
    assert said[1].startswith(f"lessons whose notes spell out control tokens, left out of the prompt: 1 of {count} (")
    assert "(numbers 3)" in said[1]


def test_counted_notes_that_spell_control_tokens_are_laid_to_the_corpus(caplog: pytest.LogCaptureFixture) -> None:
    given = single(ErrtaError("missing", "a", (entity("喝小满", "小满", "<b>&"),), ()), "喝小满")
    with pytest.raises(UserError, match=r"control tokens\. The corpus spells them \(<b>\): rename such categories"):
        write(given, "zh", ["<b>&"], 10**6, len)
    prompt_errors.warn_of_unusable_lessons(shipped("errta", from_run="x"), given, ["<b>&"])
    assert "The corpus spells them (<b>)" in caplog.text
    with pytest.raises(UserError, match=r"control tokens\. Run task=guide with another teacher\."):
        write(taught(given, "a</s>"), "zh", ["<b>&"], 10**6, len)


def test_lessons_can_be_chosen_by_number(made: Guidance) -> None:
    found = write(made, "zh", CATEGORIES, 10**6, len, lessons=[5, 2])
    assert found.numbers == (2, 5)
    rules = [lesson.note.rule["zh"] for lesson in made.lessons]
    assert rules[1] in found.text
    assert rules[4] in found.text
    assert found.text.count("   - ") == found.shown == 2
    assert found.covered < write(made, "zh", CATEGORIES, 10**6, len).covered
    last = len(made.lessons)
    with pytest.raises(UserError, match=rf"^prompt\.lessons: {last + 1}, but made-up has {last} lessons"):
        write(made, "zh", CATEGORIES, 10**6, len, lessons=[1, last + 1])


def test_naming_the_lessons_that_are_shown_gives_the_same_text(made: Guidance) -> None:
    for budget in (500, 700, 1100, 2000):
        for corrections in (0, 1, 3):
            found = write(made, "zh", CATEGORIES, budget, len, corrections=corrections)
            again = write(made, "zh", CATEGORIES, budget, len, corrections=corrections, lessons=list(found.numbers))
            assert again == found


def test_as_many_corrections_are_shown_as_asked_for(made: Guidance) -> None:
    per_lesson = [len(lesson.examples) for lesson in made.lessons]
    for corrections in (0, 1, 3):
        found = write(made, "zh", CATEGORIES, 10**6, len, corrections=corrections)
        shown = sum(min(corrections, examples) for examples in per_lesson)
        assert found.text.count("\n     例：") == len(found.sentences) == shown
        assert found.examples == (len(made.lessons) if corrections else 0)
        texts = {example.text for lesson in made.lessons for example in lesson.examples[:corrections]}
        assert set(found.sentences) == texts


def test_a_lesson_keeps_what_fits_of_its_corrections(made: Guidance) -> None:
    rule = write(made, "zh", CATEGORIES, 10**6, len, lessons=[1], corrections=0)
    two = write(made, "zh", CATEGORIES, 10**6, len, lessons=[1], corrections=2)
    less = write(made, "zh", CATEGORIES, two.length - 1, len, lessons=[1], corrections=2)
    assert (len(two.sentences), len(less.sentences)) == (2, 1)
    assert write(made, "zh", CATEGORIES, rule.length, len, lessons=[1], corrections=2) == rule


def test_what_can_stand_in_a_prompt_alone_is_usable(made: Guidance) -> None:
    everything = list(range(1, len(made.lessons) + 1))
    config = shipped("errta", from_run="x", max_tokens=10**6)
    assert prompt_errors.usable_lessons(made, config, CATEGORIES, len) == everything
    lengths = [write(made, "zh", CATEGORIES, 10**6, len, lessons=[n], corrections=0).length for n in everything]
    budget = sorted(lengths)[len(lengths) // 2]
    small = dataclasses.replace(config, max_tokens=budget)
    fitting = [number for number, length in zip(everything, lengths, strict=True) if length <= budget]
    assert prompt_errors.usable_lessons(made, small, CATEGORIES, len) == fitting
    assert 0 < len(fitting) < len(everything)


def test_the_plain_text_is_what_it_always_was(made: Guidance) -> None:
    """Each type with its lessons, the largest first, one example of each: written out the slow way."""
    expected = []
    for number, paper in enumerate(paper_types(), 1):
        expected.append(f"{number}. {paper.heading.zh}")
        for lesson in made.lessons:
            if lesson_kinds()[lesson.kind].paper == paper:
                example = prompt_errors.describe_correction(lesson.kind, lesson.examples[0], "zh")
                expected += [f"   - {lesson.note.rule['zh']}", f"     {example}"]
    assert write(made, "zh", CATEGORIES, 10**6, len).text.split("\n") == expected


def test_lessons_that_are_asked_for_and_left_out_are_named(made: Guidance, caplog: pytest.LogCaptureFixture) -> None:
    config = shipped("errta", from_run="x", max_tokens=450, lessons=[1, 2, 3, 4, 5, 6])
    with caplog.at_level("WARNING", "omniner"):
        applied = made_up_guidance.applied(config, made, CATEGORIES, len)
    shown = prompt_errors.render_errors_text(made, config, CATEGORIES, len).numbers
    left = [number for number in config.lessons if number not in shown]
    assert left
    assert f"{', '.join(map(str, left))} of prompt.lessons cannot stand in the prompt" in caplog.text
    assert (applied.from_run, applied.lessons) == (None, [])
