"""Answers: what is written comes back, and what a model writes finds its place."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path

import chats
import pytest
from hypothesis import given
from hypothesis import strategies as st

import omniner
from omniner.answers import (
    CUT,
    MAX_CHARS,
    REPEATED,
    STYLES,
    check_style,
    prediction_from_answer,
    render_answer,
    spelt_as_in,
    translatable_reason,
)
from omniner.answers.loose_json import MAX_DEPTH
from omniner.errors import UserError
from omniner.records import Entity, Sentence
from omniner.wording import counted

BERLIN = [Entity("小满", "品牌", 6, 8), Entity("北京", "地点_城市", 1, 3)]
STYLE = st.sampled_from(list(STYLES))


def read(text: str, raw: str) -> list[Entity]:
    return prediction_from_answer(Sentence("s", text), raw, "sha", "hf").entities


@st.composite
def labelled(draw: st.DrawFn) -> Sentence:
    """Any text with any mentions in it: nested, overlapping, repeated."""
    text = draw(st.text(min_size=1, max_size=30) | st.text('啊北京"\\[]{} \n', min_size=1, max_size=30))
    entities = []
    for _ in range(draw(st.integers(0, 6))):
        start = draw(st.integers(0, len(text) - 1))
        end = draw(st.integers(start + 1, len(text)))
        entities.append(Entity(text[start:end], draw(st.sampled_from(["地点_城市", "人/物", 'a"b', "['"])), start, end))
    return Sentence("s", text, entities)


def test_the_two_forms() -> None:
    assert render_answer(BERLIN, "official") == '[["北京", "地点_城市"], ["小满", "品牌"]]'
    assert render_answer(BERLIN, "compact") == '[["北京","地点_城市"],["小满","品牌"]]'
    assert render_answer([], "official") == render_answer([], "compact") == "[]"
    with pytest.raises(UserError, match=r"prompt\.answer"):
        check_style("yaml")


def test_reading_order_repeats_and_unknown_places() -> None:
    again = [*BERLIN, Entity("北京", "地点_城市", 9, 11)]
    assert json.loads(render_answer(again, "compact")) == [
        ["北京", "地点_城市"],
        ["小满", "品牌"],
        ["北京", "地点_城市"],
    ]
    nested = [Entity("北京大学", "机构", 0, 4), Entity("北京", "地点", 0, 2)]
    assert [surface for surface, _ in json.loads(render_answer(nested, "compact"))] == ["北京", "北京大学"]
    bare = [Entity(entity.text, entity.category) for entity in BERLIN]
    assert json.loads(render_answer(bare, "official")) == [["小满", "品牌"], ["北京", "地点_城市"]]


@given(sentence=labelled(), style=STYLE)
def test_what_is_written_comes_back(sentence: Sentence, style: str) -> None:
    raw = render_answer(sentence.entities, style)
    prediction = prediction_from_answer(sentence, raw, "sha", "hf")
    assert (prediction.parse, prediction.raw, prediction.prompt_sha, prediction.engine) == ("ok", raw, "sha", "hf")
    assert {e[:2] for e in prediction.entities} == {e[:2] for e in sentence.entities}
    placed = [entity for entity in prediction.entities if entity.start is not None]
    assert placed == prediction.entities  # every surface stands in the text
    assert all(sentence.text[e.start : e.end] == e.text for e in placed)
    assert len(set(placed)) == len(placed)
    dropped = len(sentence.entities) - len(placed)
    assert prediction.reason == (f"{counted(dropped, 'repeated entity')} dropped" if dropped else "")


@given(words=st.lists(st.sampled_from(["北京", "上海", "小满", "Nanci"]), max_size=8), data=st.data(), style=STYLE)
def test_places_come_back_where_every_occurrence_is_listed(words: list[str], data: st.DataObject, style: str) -> None:
    text, entities = "", list[Entity]()
    for word in words:
        text += data.draw(st.sampled_from(["，", "和 ", "的"]))
        # the category goes with the word: an answer cannot say which of two occurrences has which
        entities += [Entity(word, f"{word}_{kind}", len(text), len(text) + len(word)) for kind in "ab"]
        text += word
    found = read(text, render_answer(entities, style))
    assert sorted(found) == sorted(entities)


@given(sentence=labelled(), style=STYLE)
def test_what_is_written_comes_back_in_another_normal_form(sentence: Sentence, style: str) -> None:
    """Qwen's tokenizers compose letters and accents; the mention must still be found where it stands."""
    text = unicodedata.normalize("NFD", f"caf\u00e9 {sentence.text} \u1ea1\u0308 한국")
    for surface in (text[:5], unicodedata.normalize("NFD", "한국"), "a\u0323\u0308"):
        raw = unicodedata.normalize("NFC", render_answer([Entity(surface, "甲")], style))
        (entity,) = read(text, raw)
        assert (entity.text, entity.category) == (surface, "甲")
        assert text[entity.start : entity.end] == surface


def test_a_part_of_a_letter_is_not_found() -> None:
    text = "cafe\u0301"
    assert read(text, '[["cafe", "甲"]]') == [Entity("cafe", "甲", 0, 4)]
    assert read(text, '[["é", "甲"]]') == [Entity("e\u0301", "甲", 3, 5)]
    assert read("e\u0301e\u0301", '[["éé", "甲"], ["éa", "乙"]]') == [
        Entity("e\u0301e\u0301", "甲", 0, 4),
        Entity("éa", "乙"),
    ]
    assert read("x\u0323\u0307", '[["x\u0307", "甲"]]') == [Entity("x\u0307", "甲")]


def test_what_is_not_in_the_text_keeps_no_place() -> None:
    assert read("去北京", '[["南京", "地点"], ["北京", "地点"]]') == [
        Entity("南京", "地点"),
        Entity("北京", "地点", 1, 3),
    ]


def test_repeats_share_a_place_or_are_dropped() -> None:
    raw = '[["北京", "地点"], ["北京", "机构"], ["北京", "地点"]]'
    prediction = prediction_from_answer(Sentence("s", "去北京"), raw, "", "")
    assert prediction.entities == [Entity("北京", "地点", 1, 3), Entity("北京", "机构", 1, 3)]
    assert (prediction.parse, prediction.reason) == ("ok", "1 repeated entity dropped")


@pytest.mark.parametrize(
    ("raw", "entities", "parse"),
    [
        ('答案：[["北京", "地点"]]', [Entity("北京", "地点", 1, 3)], "repaired"),
        ('[["北京", "地点"], ["小', [Entity("北京", "地点", 1, 3)], "repaired"),
        ("我不知道", [], "failed"),
        ("", [], "failed"),
        ("[]", [], "ok"),
    ],
)
def test_broken_answers(raw: str, entities: list[Entity], parse: str) -> None:
    prediction = prediction_from_answer(Sentence("s", "去北京"), raw, "", "")
    assert (prediction.entities, prediction.parse) == (entities, parse)
    assert bool(prediction.reason) == (parse != "ok")


def test_of_an_answer_that_was_cut_the_last_item_is_not_read_and_the_reason_is_kept() -> None:
    sentence, raw = Sentence("s", "去北京上海"), "北京：地点\n上海：地"
    whole, cut = (prediction_from_answer(sentence, raw, "", "", ended_by) for ended_by in ("", CUT))
    assert [entity.text for entity in whole.entities] == ["北京", "上海"]
    assert [entity.text for entity in cut.entities] == ["北京"]
    assert cut.reason == f"{CUT}; {whole.reason}"


def test_of_an_answer_that_was_cut_behind_a_line_all_lines_are_read() -> None:
    prediction = prediction_from_answer(Sentence("s", "去北京上海"), "北京：地点\n上海：地点\n", "", "", CUT)
    assert [entity.text for entity in prediction.entities] == ["北京", "上海"]


@pytest.mark.parametrize(("mark", "found"), [("- ", ["北京", "上海"]), ("", [])])
def test_a_line_without_a_mark_is_a_remark_only_beside_lines_that_have_one(mark: str, found: list[str]) -> None:
    raw = f"{mark}北京：地点\n其余如下\n{mark}上海：地点"
    prediction = prediction_from_answer(Sentence("s", "去北京上海"), raw, "", "", categories=["地点"])
    assert [entity.text for entity in prediction.entities] == found


def test_known_categories_tell_the_sides_where_the_sentence_has_both() -> None:
    sentence, raw = Sentence("s", "地点北京"), '[["地点", "北京"]]'
    assert prediction_from_answer(sentence, raw, "", "").entities == [Entity("地点", "北京", 0, 2)]
    known = prediction_from_answer(sentence, raw, "", "", categories=["地点"])
    assert known.entities == [Entity("北京", "地点", 2, 4)]


def test_a_surface_that_the_text_has_letter_for_letter_is_itself() -> None:
    assert spelt_as_in("e\u0301\u00e9", "\u00e9") == "\u00e9"


@pytest.mark.parametrize("name", chats.PUBLIC)
def test_through_a_real_tokenizer(shared: Path, name: str) -> None:
    chat = chats.public(shared, name)

    @given(sentence=labelled(), style=STYLE)
    def check(sentence: Sentence, style: str) -> None:
        raw = chat.decode(chat.answer_ids(render_answer(sentence.entities, style)))
        assert {e[:2] for e in read(sentence.text, raw)} == {e[:2] for e in sentence.entities}

    check()


@pytest.mark.parametrize(
    ("name", "entities", "lost"), [("resume/train.char.bmes", 13440, 0), ("weibo/weiboNER_2nd_conll.train", 1895, 9)]
)
def test_perfect_answers_to_real_sentences_lose_few_places(shared: Path, name: str, entities: int, lost: int) -> None:
    sentences = omniner.read(shared / "data" / name)
    gold = [set(sentence.entities) for sentence in sentences]
    found = [set(read(one.text, render_answer(one.entities, "official"))) for one in sentences]
    assert sum(map(len, gold)) == entities
    assert sum(len(a - b) for a, b in zip(gold, found, strict=True)) == lost


@pytest.mark.parametrize(
    ("raw", "ended_by", "chinese"),
    [
        ("我不知道", "", "不是 JSON：Expecting value: line 1 column 1 (char 0)；其中看不出实体文字和它的类别"),
        ("", CUT, "达到 decoding.max_new_tokens，被截断；答案为空"),
        ("[" * 1000, "", "嵌套超过 {depth} 层"),
        ("x" * (MAX_CHARS + 1), REPEATED, "模型开始重复自身，被截断；超过 1000000 个字符"),
        ("<think>嗯</think>[]", "", "答案位于思考内容之后"),
        ("<think>嗯", "", "{json}；模型还在思考时中断"),
        ("<think>嗯</think>", "", "{json}；思考内容之后没有内容"),
        ('<answer>[["小满", "a"]]</answer>', "", "答案位于标签之内"),
        ("\\boxed{[]}", "", "答案位于方框之内"),
        ("[]<|im_end|>", "", "答案位于本轮结束标记之前"),
        ('[["小满", "a"], ["x"], null]', "", "是 JSON，但不是二元组的列表；2 项未读"),
        ('[["小满", "a"], ["小满", "a"]]', "", "舍去 1 个重复的实体"),
        ('[["a", "小满"]]', "", "类别写在前面"),
        ('[["小', CUT, "{json}；第一个二元组还没写完就中断"),
    ],
)
def test_the_reason_is_chinese_on_chinese_pages_and_unchanged_on_others(raw: str, ended_by: str, chinese: str) -> None:
    prediction = prediction_from_answer(Sentence("1", "去小满"), raw, "", "", ended_by, ["a"])
    found = translatable_reason(prediction.reason)
    assert found == prediction.reason
    json_error = "不是 JSON：" + prediction.reason.partition("not JSON: ")[2].partition("; ")[0]
    assert found.of("zh").endswith(chinese.format(depth=MAX_DEPTH, json=json_error) if "{" in chinese else chinese)


def test_an_unknown_reason_stays_as_it_is() -> None:
    assert translatable_reason("said {by} a model").of("zh") == "said {by} a model"
    assert translatable_reason("refused: too long").of("zh") == "被拒绝：too long"
    assert translatable_reason("").of("zh") == ""
