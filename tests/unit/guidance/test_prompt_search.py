"""Variants of a prompt: each is what its keys say, none twice, always the same ones."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest
from tests.helpers import made_up_guidance
from tests.helpers.made_up_guidance import CATEGORIES

from omniner.config import compose
from omniner.config.groups import Config
from omniner.config.overrides import override_line
from omniner.errors import UserError
from omniner.guidance import prompt_search
from omniner.guidance.lessons import Guidance
from omniner.guidance.prompt_search import BASELINES, GENERIC, PLAIN, PromptVariant, VariantInputs
from omniner.llm import prompts
from omniner.records import Entity, Sentence

BASE = ["task=search", "decoding=openai", "decoding.url=http://x/v1", "prompt=errta", "prompt.max_tokens=1200"]
TRAIN = [Sentence(str(n), f"去上海{n}", [Entity("上海", CATEGORIES[n % 6], 1, 3)]) for n in range(30)]


@pytest.fixture(scope="module")
def made() -> Guidance:
    return made_up_guidance.guidance()


def config(*overrides: str) -> Config:
    return compose.load([*BASE, "prompt.from_run=g", *overrides])


def material(made: Guidance) -> VariantInputs:
    return VariantInputs(made, CATEGORIES, TRAIN, len)


def variants(made: Guidance, *overrides: str) -> tuple[dict[str, PromptVariant], dict[str, str]]:
    settings = config(*overrides)
    found, same = prompt_search.build_variants(settings.prompt, settings.search, material(made))
    assert len({variant.name for variant in found}) == len(found)
    return {variant.name: variant for variant in found}, dict(same)


def test_there_are_baselines_sizes_types_and_random_ones(made: Guidance) -> None:
    found, same = variants(made, "search.largest=[2,4]", "search.random=5", "search.corrections=[0,1]")
    assert tuple(found)[:2] == BASELINES
    assert found[GENERIC].lessons is None
    assert found[GENERIC].config.from_run is None
    assert (found[PLAIN].config.lessons, found[PLAIN].config.corrections) == ([], 1)
    assert found["largest_2-c0"].config.lessons == [1, 2]
    assert found["largest_4-c1"].config.lessons == [1, 2, 3, 4]
    missing = [n for n, lesson in enumerate(made.lessons, 1) if lesson.kind == "missing"]
    assert found["only_missing-c0"].config.lessons == missing
    assert [name.partition("-")[0] for name in found if name.startswith("random")] == [
        f"random_{n}" for n in range(1, 6)
    ]
    assert same[f"all_{len(made.lessons)}-c1"] == PLAIN
    assert len({variant.prompt.sha for variant in found.values()}) == len(found)


def test_a_variant_is_what_its_keys_say(made: Guidance) -> None:
    """Set on the command line, they give the same prompt without any search."""
    found, _ = variants(made, "search.random=4")
    assert len(found) > 10
    for variant in list(found.values())[::5]:
        line = override_line(variant.overrides)
        told = compose.load(["task=predict", *BASE[1:], *line.split()]).prompt
        assert told == variant.config
        if told.from_run:
            told = made_up_guidance.applied(told, made, CATEGORIES, len)
        assert prompts.build_prompt(told, CATEGORIES, TRAIN) == variant.prompt
        if variant.lessons:
            assert list(variant.lessons.numbers) == variant.config.lessons or variant.name == PLAIN
            assert variant.sentences == frozenset(variant.lessons.sentences)


def test_the_same_seed_gives_the_same_variants(made: Guidance) -> None:
    assert variants(made) == variants(made)
    first, other = (variants(made, f"search.seed={seed}")[0] for seed in (1, 2))
    differ = [name for name in first if name.startswith("random") and first[name] != other.get(name)]
    assert differ
    assert [name for name in first if not name.startswith("random")] == [n for n in other if not n.startswith("random")]


def test_only_the_lessons_of_the_configuration_are_used(made: Guidance) -> None:
    found, _ = variants(made, "prompt.lessons=[2,5,6]")
    assert {n for variant in found.values() for n in variant.config.lessons} == {2, 5, 6}
    assert found[PLAIN].config.lessons == [2, 5, 6]
    types = [{name.partition("_")[0] for name in variants(made, f"search.types={on}")[0]} for on in ("true", "false")]
    assert types[0] - types[1] == {"only"}


def test_a_single_lesson_leaves_no_random_subsets(made: Guidance) -> None:
    found, _ = variants(made, "prompt.lessons=[3]", "search.corrections=[0,1]")
    assert {name: variant.config.corrections for name, variant in found.items()} == {
        GENERIC: 1, PLAIN: 1, "all_1-c0": 0,
    }  # fmt: skip


def test_sentences_of_train_are_varied_where_the_prompt_has_a_place(made: Guidance) -> None:
    found, _ = variants(
        made, "prompt=errta_fewshot", "search.examples=[2,3]", "search.random=2", "search.corrections=[1]"
    )
    assert {variant.config.examples for name, variant in found.items() if "-e2" in name} == {2}
    for variant in found.values():
        shown = prompts.choose_examples(TRAIN, variant.config.examples, variant.config.seed)
        assert all(sentence.text in variant.prompt.system for sentence in shown)
        assert variant.prompt.system.count("句子：") == len(shown)
        assert {sentence.text for sentence in shown} < variant.sentences or variant.name.startswith(GENERIC)
        assert len(variant.sentences - {sentence.text for sentence in shown}) == len(
            set(variant.lessons.sentences) if variant.lessons else ()
        )
    with pytest.raises(UserError, match=r"no \{examples\} in it"):
        variants(made, "search.examples=[2]")


def test_a_prompt_without_a_place_for_errors_is_a_mistake(made: Guidance) -> None:
    with pytest.raises(UserError, match=r"no \{errors\} in it"):
        variants(made, "prompt=base")


def test_heavier_items_are_drawn_more_often() -> None:
    """The first of two draws goes by weight, as the slow way has it."""
    weights, times = [8, 1, 1], 4000
    generator = random.Random(5)
    fast: Counter[Any] = Counter(
        tuple(prompt_search.draw_weighted([4, 5, 6], weights, 2, generator)) for _ in range(times)
    )
    slow: Counter[Any] = Counter()
    for _ in range(times):
        left = {4: 8, 5: 1, 6: 1}
        chosen = []
        for _ in range(2):
            (one,) = generator.choices(list(left), list(left.values()))
            chosen.append(one)
            del left[one]
        slow[tuple(sorted(chosen))] += 1
    assert set(fast) == set(slow) == {(4, 5), (4, 6), (5, 6)}
    for pair, count in slow.items():
        assert fast[pair] == pytest.approx(count, abs=0.03 * times)
    assert prompt_search.draw_weighted([1, 2, 3], [0, 0, 1], 1, generator) == [3]
    assert prompt_search.draw_weighted([1, 2, 3], weights, 3, generator) == [1, 2, 3]
