"""Prompts: what is filled in, what is refused, which examples are shown, and the shipped texts."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import chats
import pytest
from shipped_prompts import CATEGORIES, SHIPPED, corpus, shipped

from omniner.config.model_groups import PromptConfig
from omniner.errors import UserError
from omniner.llm import prompts
from omniner.llm.prompts import Prompt
from omniner.records import Entity, Sentence


def small(template: str, **changes: Any) -> PromptConfig:
    texts = {"system": {"zh": ""}, "instruction": {"zh": template}, "input": {"zh": "句：{sentence}"}}
    config = PromptConfig(
        "own", "1", "zh", "official", **texts, errors={}, examples=0, seed=0,
        from_run=None, lessons=[], corrections=1, max_tokens=800,
    )  # fmt: skip
    return replace(config, **changes)


@pytest.mark.parametrize("language", ["zh", "en"])
@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_prompt_is_whole(name: str, language: str) -> None:
    prompt = prompts.build_prompt(shipped(name, language), CATEGORIES, corpus())
    assert all(category in prompt.instruction for category in CATEGORIES)
    assert prompt.categories == CATEGORIES
    assert prompt.messages("去看{展}")[-1]["content"].startswith(prompt.instruction + "\n")
    assert prompt.messages("去看{展}")[-1]["content"].endswith("去看{展}")
    assert prompts._PLACEHOLDER.search(prompt.instruction) is None
    assert json.dumps([["实体", "类别"]] * 2, ensure_ascii=False) in prompt.instruction or language == "en"


def test_languages_differ_and_both_are_complete() -> None:
    for name in SHIPPED:
        config = shipped(name)
        for texts in (config.system, config.instruction, config.input, config.errors):
            assert set(texts) == {"zh", "en"}
            assert not texts["zh"] or texts["zh"] != texts["en"]


def test_lengths_with_ninety_categories(shared: Path) -> None:
    chat = chats.public(shared, "qwen2")
    lengths = {
        (name, language): len(
            chat.prompt_ids(prompts.build_prompt(shipped(name, language), CATEGORIES, []).instruction)
        )
        for name in ("base", "errta")
        for language in ("zh", "en")
    }
    assert 600 <= lengths["base", "zh"] <= 700
    assert 1_050 <= lengths["errta", "zh"] <= 1_150
    assert lengths["base", "en"] <= 800
    assert lengths["errta", "en"] <= 1_300


def test_errta_names_its_five_types_and_takes_other_errors() -> None:
    prompt = prompts.build_prompt(shipped("errta"), CATEGORIES, [])
    for kind in ("分类错误", "边界错误", "遗漏", "多标", "拆分或合并错误"):
        assert kind in prompt.instruction
    own = prompts.build_prompt(shipped("errta", errors={"zh": '把 [["a", "{b}"]] 改成 {examples}'}), CATEGORIES, [])
    assert '把 [["a", "{b}"]] 改成 {examples}' in own.instruction
    assert "分类错误" not in own.instruction
    assert own.sha != prompt.sha


def test_braces_are_only_braces() -> None:
    config = small('{"text": "x", "n": {}} {categories} {{"a": 1}}')
    prompt = prompts.build_prompt(config, ["{sentence}", "{a}"], [])
    assert prompt.instruction == '{"text": "x", "n": {}} {sentence}、{a} {{"a": 1}}'
    assert prompt.messages("{sentence}{x}\\1")[-1]["content"] == prompt.instruction + "\n句：{sentence}{x}\\1"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"instruction": {"zh": "{categories} {类别}"}}, r"^prompt\.instruction\.zh: unknown placeholder \{类别\}"),
        ({"instruction": {"zh": "{categories} {sentence}"}}, r"^prompt\.instruction\.zh: unknown .*\{sentence\}"),
        ({"instruction": {"zh": "找实体"}}, r"^prompt\.instruction\.zh: no \{categories\} in it"),
        ({"examples": 1}, r"^prompt\.instruction\.zh: no \{examples\} in it"),
        ({"errors": {"zh": "错"}}, r"^prompt\.instruction\.zh: no \{errors\} in it"),
        ({"instruction": {"zh": "{categories}{errors}"}}, r"^prompt\.instruction\.zh: \{errors\} .*prompt\.errors\.zh"),
        ({"instruction": {"zh": "{categories}{examples}"}}, r"^prompt\.instruction\.zh: .* prompt\.examples has none"),
        ({"input": {"zh": "句："}}, r"^prompt\.input\.zh: \{sentence\} stands 0 times"),
        ({"input": {"zh": "{sentence}{sentence}"}}, r"^prompt\.input\.zh: \{sentence\} stands 2 times"),
        ({"input": {"zh": "{sentence}{categories}"}}, r"^prompt\.input\.zh: unknown placeholder \{categories\}"),
        ({"language": "fr"}, r"^prompt\.language: 'fr', but prompt\.\w+ has texts in: zh"),
        ({"answer": "xml"}, r"^prompt\.answer: 'xml'"),
        ({"examples": 1000, "instruction": {"zh": "{categories}{examples}"}}, r"^prompt\.examples: 1,000 .* 278 sent"),
    ],
)
def test_a_mistake_names_its_key(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        prompts.build_prompt(small("{categories}", **changes), ["地点"], corpus())


@pytest.mark.parametrize("answer", ["official", "compact"])
def test_examples_are_shown_as_they_are_learnt(answer: str) -> None:
    train = [Sentence("a", "去北京{x}", [Entity("北京", "地点", 1, 3), Entity("{x}", "地点", 3, 6)])]
    config = small("{categories}\n{examples}", examples=1, answer=answer)
    space = " " if answer == "official" else ""
    written = f'[["北京",{space}"地点"],{space}["{{x}}",{space}"地点"]]'
    assert prompts.build_prompt(config, ["地点"], train).instruction == f"地点\n句：去北京{{x}}\n{written}"


def test_messages_and_system() -> None:
    prompt = prompts.build_prompt(small("{categories}"), ["地点"], [])
    assert prompt.messages("a") == [{"role": "user", "content": "地点\n句：a"}]
    prompt = prompts.build_prompt(small("x", system={"zh": "只认{categories}"}), ["地点"], [])
    assert prompt.messages("a")[0] == {"role": "system", "content": "只认地点"}


def test_line_breaks_around_a_text_are_left_out() -> None:
    prompt = prompts.build_prompt(small("\n{categories}\n\n", system={"zh": "只认人\n"}), ["地点"], [])
    assert (prompt.system, prompt.instruction) == ("只认人", "地点")


def test_half_a_surrogate_of_an_example_is_replaced() -> None:
    """No tokenizer takes it."""
    config = small("{categories}\n{examples}", examples=1, nearest=1)
    train = [Sentence(text, text, [Entity("京", "地点", 0, 1)]) for text in ("京\ud83d", "京都\ud83d")]
    prompt = prompts.build_prompt(config, ["地点"], train)
    for told in (prompt.instruction, *prompt.filled_inputs(["京都"])):
        assert "\ufffd" in told
        assert "\ud83d" not in told


def test_the_seed_chooses_the_examples() -> None:
    train = [Sentence(f"{n}", f"京{n}", [Entity("京", "地点", 0, 1)]) for n in range(30)]
    config = small("{categories}\n{examples}", examples=3)
    prompted = [prompts.build_prompt(replace(config, seed=seed), ["地点"], train) for seed in (0, 0, 1, 2, 3)]
    assert len({prompt.instruction for prompt in prompted}) == 4


def test_json_and_hash() -> None:
    prompt = prompts.build_prompt(shipped("errta"), CATEGORIES, [])
    stored = json.loads(json.dumps(prompt.to_json()))
    assert Prompt.from_json(stored) == prompt
    assert Prompt.from_json(stored).sha == prompt.sha
    assert len(prompt.sha) == 16
    fields = ("name", "version", "language", "system", "instruction", "input", "answer")
    changed = {replace(prompt, **{name: getattr(prompt, name) + "."}).sha for name in fields}
    changed.add(replace(prompt, categories=CATEGORIES[:-1]).sha)
    assert len(changed | {prompt.sha}) == len(fields) + 2
    for broken in ({**stored, "more": 1}, {"name": "x"}, {**stored, "categories": 3}):
        with pytest.raises(UserError, match="not a stored prompt"):
            Prompt.from_json(broken)


def test_categories_are_told_with_definitions_and_typical_entities() -> None:
    train = [
        Sentence("a", "北京北京", [Entity("北京", "地点", 0, 2), Entity("北京", "地点", 2, 4)]),
        Sentence("b", "去上海喝小满", [Entity("上海", "地点", 1, 3), Entity("小满", "时间", 4, 6)]),
        Sentence("c", "小满", [Entity("小满", "品牌", 0, 2)]),
    ]
    config = small("{categories}", category_examples=2)
    names = ["地点", "品牌", "时间"]
    assert prompts.build_prompt(config, names, train).instruction == "- 地点：例如北京、上海\n- 品牌\n- 时间"
    defined = replace(config, definitions=True, category_examples=1)
    definitions = {"地点": "城市", "品牌": "{sentence}", "时间": "节气"}
    told = prompts.build_prompt(defined, names, train, definitions).instruction
    assert told == "- 地点：城市，例如北京\n- 品牌：{sentence}\n- 时间：节气"
    with pytest.raises(UserError, match=r"^prompt\.definitions: .* none of 1 categories: 品牌"):
        prompts.build_prompt(defined, names, train, {"地点": "城市", "时间": "节气"})


NEAR = [
    Sentence("1", "去北京喝咖啡", [Entity("北京", "地点", 1, 3)]),
    Sentence("2", "在上海看展览", [Entity("上海", "地点", 1, 3)]),
    Sentence("3", "北京的冬天很冷", [Entity("北京", "地点", 0, 2)]),
    Sentence("4", "没有什么", []),
    Sentence("5", "去北京喝咖啡", []),
]


def test_nearest_examples_stand_in_front_of_the_sentence() -> None:
    prompt = prompts.build_prompt(small("{categories}", nearest=2), ["地点"], NEAR)
    second = '句：北京的冬天很冷\n[["北京", "地点"]]'
    first = '句：去北京喝咖啡\n[["北京", "地点"]]'  # of two with one text, the first
    assert prompt.messages("去北京喝茶")[-1]["content"] == f"地点\n{second}\n\n{first}\n\n句：去北京喝茶"
    assert prompt.messages("去北京喝咖啡")[-1]["content"].count("去北京喝咖啡") == 1  # never itself, nor its twin
    [shown] = prompt.filled_inputs(["去北京喝茶"], ["去北京喝咖啡"])  # made from a sentence of train
    assert "去北京喝咖啡" not in shown
    assert prompt.filled_inputs(["a", "去北京喝茶"])[1] == prompt.filled_inputs(["去北京喝茶"])[0]
    assert prompt.outline() == [
        {"role": "user", "content": "地点\n{2 examples of train that are nearest to the sentence}\n\n句：{sentence}"}
    ]
    with pytest.raises(UserError, match=r"^prompt\.nearest: 4 examples .* 4 different"):
        prompts.build_prompt(small("{categories}", nearest=4), ["地点"], NEAR)


def test_prompts_that_show_the_same_sentences_share_their_index() -> None:
    first = prompts.build_prompt(small("{categories}", nearest=2), ["地点"], NEAR)
    second = prompts.build_prompt(small("{categories}。", nearest=2), ["地点"], NEAR)
    assert first._index is second._index
    other = prompts.build_prompt(small("{categories}", nearest=2), ["地点"], NEAR[1:])
    assert other._index is not first._index


def test_nearest_examples_are_stored_and_a_prompt_without_them_keeps_its_hash() -> None:
    prompt = prompts.build_prompt(small("{categories}", nearest=2), ["地点"], NEAR)
    stored = Prompt.from_json(json.loads(json.dumps(prompt.to_json())))
    assert stored == prompt
    assert stored.sha == prompt.sha
    assert stored.messages("去北京喝茶")[-1]["content"] == prompt.messages("去北京喝茶")[-1]["content"]
    other = prompts.build_prompt(small("{categories}", nearest=2), ["地点"], NEAR[1:])
    assert other.sha != prompt.sha
    assert not {"nearest", "pool"} & set(prompts.build_prompt(small("{categories}"), ["地点"], NEAR).to_json())
