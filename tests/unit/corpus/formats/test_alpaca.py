"""Instruction data: what is read, what becomes an issue, and that writing and reading give the same back."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.helpers.reading import SMALL, assert_offsets_hold, codes, read, spans

from omniner import records
from omniner.answers import render_answer
from omniner.corpus import formats
from omniner.corpus.formats import WriteOptions
from omniner.errors import UserError
from omniner.records import Entity, Sentence


class Prompt(NamedTuple):
    system: str
    instruction: str
    input: str

    def filled_inputs(self, texts: Sequence[str]) -> list[str]:
        return [self.input.replace("{sentence}", text) for text in texts]


BARE = Prompt("", "找出实体。", "{sentence}")
DRESSED = Prompt("你是助手。", "找出实体{类别}。", "句子：{sentence}\n答案：")


def official(entities: list[Entity]) -> str:
    return render_answer(entities, "official")


def write(path: Path, sentences: list[Sentence], prompt: Prompt = BARE):
    return formats.write(path, "alpaca", sentences, WriteOptions(prompt=prompt, answer=official))


def parse(tmp_path: Path, *items: object):
    path = tmp_path / "x.json"
    path.write_text(json.dumps(items, ensure_ascii=False), encoding="utf-8")
    return read(path, "auto")


def test_alpaca_items() -> None:
    sentences, issues = read(SMALL / "alpaca.json", "auto")
    assert [(s.id, s.text, spans(s)) for s in sentences] == [
        ("a", "我爱北京北京", [(2, 4, "地点_城市"), (4, 6, "地点_城市")]),
        ("s-1", '去“上海"吃饭', []),
        ("s-2", "没有答案", []),
        ("s-3", "三元组", [(0, 1, "数量")]),
    ]
    assert [records.is_unlabeled(s) for s in sentences] == [False, False, True, False]
    assert [(issue.code, issue.line, issue.message[:6]) for issue in issues] == [
        ("duplicate-entity", 2, "item 1"),
        ("unknown-key", 3, "item 2"),  # history
        ("bad-answer", 5, "item 4"),
        ("bad-entity", 6, "item 5"),
    ]


def test_conversations() -> None:
    sentences, issues = read(SMALL / "sharegpt.jsonl", "auto")
    assert [(s.id, s.post_id, s.text, spans(s)) for s in sentences] == [
        ("s-0", None, "我爱北京", [(2, 4, "地点_城市")]),
        ("7", "p", "去上海", [(1, 3, "地点_城市")]),
        ("s-2", None, "还没有答案", []),
    ]
    assert records.is_unlabeled(sentences[2])
    assert [(issue.code, issue.line) for issue in issues] == [("bad-record", 4), ("bad-record", 5)]


@pytest.mark.parametrize(
    ("item", "text"),
    [
        ({"instruction": "一\n二", "input": "三"}, "三"),
        ({"instruction": "一\n二", "input": ""}, "二"),
        ({"instruction": "一\r\n二\r\n"}, "二"),
        ({"instruction": "一", "input": None}, "一"),
        ({"instruction": "一", "input": "句子：三", "sentence": "三"}, "三"),
        ({"input": " ", "output": None}, " "),
        ({"conversations": [{"from": "human", "value": "一\n\n二\n"}]}, "二"),
    ],
)
def test_where_the_sentence_stands(tmp_path: Path, item: dict[str, object], text: str) -> None:
    [sentence], issues = parse(tmp_path, {"output": "", **item} if "conversations" not in item else item)
    assert (sentence.text, issues) == (text, [])


@pytest.mark.parametrize(
    "output",
    [
        "没有实体",
        "[",
        "[[\"北京\", \"A\"]] 以上",
        '{"A": "北京"}',
        '{"A": [["北京"]]}',
        '{"A": ["北京"], "A": ["上海"]}',
        '{"entity": ["北京"], "type": ["地名"]}',
        {"entities": {"text": ["北京", "上海"], "label": ["地名", "地名"]}},
        "null",
        "[['北京', 'A']]",
        '```json\n[]\n```',
        "[" * 100_000,
        3,
    ],
)  # fmt: skip
def test_an_answer_that_is_no_list_gives_no_labels(tmp_path: Path, output: object) -> None:
    """Guessing at the answer of a corpus would make gold of a guess."""
    good = {"instruction": "一", "input": "北京", "output": ' [["北京", "A"]]\n'}
    [sentence], issues = parse(tmp_path, {**good, "output": output}, good)
    assert sentence.entities == [Entity("北京", "A", 0, 2)]
    assert codes(issues) == {"bad-answer": 1}
    assert issues[0].message.startswith("item 1: ")


@pytest.mark.parametrize(
    "output",
    [
        '{"人名": ["王芳"], "城市": ["北京", "上海"], "机构": [], "书": null}',
        '{"entities": {"人名": ["王芳"], "城市": ["北京", "上海"]}}',
        {"entities": {"人名": ["王芳"], "城市": ["北京", "上海"]}},
        '{"entities": [["北京", "城市"], {"text": "王芳", "type": "人名"}, ["上海", "城市"]]}',
        '{"北京": ["城市"], "王芳": ["人名"], "上海": ["城市"]}',
    ],
)
def test_an_object_of_categories_lists_their_surfaces(tmp_path: Path, output: object) -> None:
    """Groups are in no reading order: 北京 stays where it first is, though 王芳 is listed before it."""
    [sentence, nothing], issues = parse(
        tmp_path, {"input": "北京的王芳去上海和北京", "output": output}, {"input": "好", "output": "{}"}
    )
    assert sorted(spans(sentence)) == [(0, 2, "城市"), (3, 5, "人名"), (6, 8, "城市")]
    assert set(codes(issues)) <= {"turned-pairs"}
    assert (nothing.entities, records.is_unlabeled(nothing)) == ([], False)


def chat(text: str, *pairs: tuple[str, str]) -> dict[str, object]:
    return {"messages": [{"role": "user", "content": text}, {"role": "assistant", "content": json.dumps(pairs)}]}


ASKED = "请找出句子中的人名、地名："
PERSON, PLACE = ("王芳", "人名"), ("北京", "地名")


def grouped(text: str, answer: object) -> dict[str, object]:
    return {"messages": [{"role": "user", "content": text}, {"role": "assistant", "content": json.dumps(answer)}]}


def test_an_instruction_on_the_line_of_the_sentence_is_no_part_of_it(tmp_path: Path) -> None:
    texts = ["我爱北京", "我去北京", "来北京"]
    found, issues = parse(tmp_path, *(chat(f"提取实体：{text}", PLACE) for text in texts))
    assert [one.text for one in found] == texts
    assert [spans(one) for one in found] == [[(2, 4, "地名")], [(2, 4, "地名")], [(1, 3, "地名")]]
    assert [(issue.code, issue.line) for issue in issues] == [("shared-opening", 1)]
    assert "'提取实体：'" in issues[0].message
    found, issues = parse(tmp_path, *({"instruction": f"Find: {text}"} for text in texts))
    assert [one.text for one in found] == texts
    found, issues = parse(tmp_path, *(chat(f"找出实体：12:30{text}", ("12:30", "时间")) for text in texts))
    assert [one.text for one in found] == [f"12:30{text}" for text in texts]


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("is_grouped", [False, True])
def test_an_absent_surface_does_not_keep_an_instruction_that_names_the_categories(
    tmp_path: Path, is_grouped: bool, turned: bool
) -> None:
    def ask(text: str, *pairs: tuple[str, str]) -> dict[str, object]:
        if is_grouped:
            return grouped(text, {pair[not turned]: [pair[turned]] for pair in pairs})
        return chat(text, *(pair[::-1] if turned else pair for pair in pairs))

    items = [ask(f"{ASKED}第{number}人王芳去北京", PERSON, PLACE) for number in range(40)]
    found, issues = parse(tmp_path, *items, ask(f"{ASKED}李四走了", ("李 四", "人名")))
    expected = {"shared-opening": 1, "unaligned": 1} | ({"turned-pairs": 1} if turned else {})
    assert (found[0].text, found[-1].text, codes(issues)) == ("第0人王芳去北京", "李四走了", expected)
    assert spans(found[0]) == [(3, 5, "人名"), (6, 8, "地名")]
    assert found[-1].entities == [Entity("李 四", "人名")]


def test_few_absent_surfaces_do_not_turn_pairs_whose_categories_all_texts_name(tmp_path: Path) -> None:
    items = [
        chat(f"{ask}人名、地名：第{number}人王芳去北京", PERSON, PLACE)
        for number in range(10)
        for ask in ("找", "请标", "标出")
    ]
    found, issues = parse(tmp_path, *items, chat("找人名、地名：李四走了", ("李 四", "人名")))
    assert found[0].entities == [Entity("王芳", "人名", 10, 12), Entity("北京", "地名", 13, 15)]
    assert codes(issues) == {"unaligned": 1}


def test_an_item_with_the_instruction_alone_is_left_out(tmp_path: Path) -> None:
    items = [chat(f"{ASKED}第{number}人王芳去北京", PERSON, PLACE) for number in range(5)]
    found, issues = parse(tmp_path, *items[:2], chat(ASKED), *items[2:])
    assert [one.text for one in found] == [f"第{number}人王芳去北京" for number in range(5)]
    assert codes(issues) == {"shared-opening": 1, "empty-text": 1}
    assert next(issue.message for issue in issues if issue.code == "empty-text").startswith("item 3: ")


@pytest.mark.parametrize(
    ("items", "expected"),
    [
        ([chat(f"新华社：{text}", ("新华社", "机构")) for text in ("我", "你", "他")], {"kept-opening": 1}),
        ([chat(f"北京：{text}在北京", PLACE, PLACE) for text in ("我", "你", "他")], {"kept-opening": 1}),
        ([chat("找：我爱北京"), chat("找：我爱北京"), chat("找：我爱北京")], {"kept-opening": 1}),
        ([chat("找："), chat("找：我去上海")], {"kept-opening": 1}),
        ([chat("请找：我去上海")], {"kept-opening": 1}),
        ([*(chat(f"找：我爱{number}") for number in range(20)), chat("我去上海")], {"kept-opening": 1}),
        ([chat("找：我爱北京"), chat("我去上海"), chat("去")], {}),
        ([chat("我爱北京"), chat("我爱上海"), chat("我爱")], {}),
        ([chat(f"我在10:3{number}去") for number in range(3)], {}),
        ([chat(f"http://a.cn/{number}") for number in range(3)], {}),
        ([{"input": f"找：我爱{text}", "output": ""} for text in "一二三"], {}),
    ],
    ids=[
        *("labelled", "labelled twice", "one text", "two texts", "one item", "not quite all", "not all", "no colon"),
        *("time", "address", "input"),
    ],
)
def test_other_openings_belong_to_the_sentences(
    tmp_path: Path, items: list[dict[str, Any]], expected: dict[str, int]
) -> None:
    found, issues = parse(tmp_path, *items)
    assert [one.text for one in found] == [
        item["messages"][0]["content"] if "messages" in item else item["input"] for item in items
    ]
    assert codes(issues) == expected


@pytest.mark.parametrize(
    "opening", ["2023-05-01 10:30 ", "http://a.cn/", "【微博】张三：", "原告：王芳，住北京。被告："]
)
def test_a_sentence_on_a_line_of_its_own_stays_whole(tmp_path: Path, opening: str) -> None:
    texts = [f"{opening}{text}" for text in ("我去", "李四", "上海", "他")]
    found, issues = parse(tmp_path, *(chat(f"找出实体\n{text}") for text in texts))
    assert ([one.text for one in found], issues) == (texts, [])


TURNED = {"input": "王芳去了杭州看电影", "output": '[["人名", "王芳"], ["城市", "杭州"]]'}


def test_pairs_that_a_whole_file_has_the_other_way_round_are_turned(tmp_path: Path) -> None:
    open_order = {"input": "人名和王芳", "output": '[["人名", "王芳"]]'}
    found, issues = parse(tmp_path, TURNED, open_order, {"input": "好", "output": "[]"})
    assert found[0].entities == [Entity("王芳", "人名", 0, 2), Entity("杭州", "城市", 4, 6)]
    assert found[1].entities == [Entity("王芳", "人名", 3, 5)]  # it could be either by itself
    assert [(issue.code, issue.line) for issue in issues] == [("turned-pairs", 1)]


def test_one_item_that_has_the_usual_order_stands_for_all(tmp_path: Path) -> None:
    """A surface from elsewhere, under a category that stands in the sentence, is no reason to turn gold round."""
    elsewhere = {"input": "王芳去了杭州看电影", "output": '[["流浪地球", "电影"]]'}
    usual = {"input": "李雷来了", "output": '[["李雷", "人名"]]'}
    for items in ((elsewhere, usual), (usual, elsewhere)):
        found, issues = parse(tmp_path, *items)
        assert [one.text for sentence in found for one in sentence.entities] == [
            "流浪地球" if item is elsewhere else "李雷" for item in items
        ]
        assert codes(issues) == {"unaligned": 1}


def test_what_is_no_item_is_an_issue(tmp_path: Path) -> None:
    found, issues = parse(
        tmp_path,
        {"instruction": 3, "input": ""},
        {"instruction": "一", "input": ["二"]},
        {"instruction": "", "input": ""},
        {"instruction": "一", "input": "好", "output": '[["坏", "A"], ["好"], 7, ["", "A"], ["好", "A"]]', "id": True},
        {"conversations": {"from": "human", "value": "好"}},
        {"conversations": [7]},
        {"conversations": [{"from": "human", "value": 7}]},
        {"conversations": [{"from": "gpt", "value": "[]"}]},
        7,
    )
    assert [(s.id, s.entities) for s in found] == [
        ("s-0", [Entity("坏", "A"), Entity("好", "A", 0, 1)]),
        ("s-1", []),
    ]
    assert codes(issues) == {"bad-record": 7, "empty-text": 1, "bad-entity": 3, "unaligned": 1}


CHARACTERS = st.characters(exclude_categories=["Cs"])


@st.composite
def sentences(draw: st.DrawFn) -> list[Sentence]:
    """Few characters, so that surfaces repeat, nest and overlap."""
    made = []
    for number in range(draw(st.integers(0, 4))):
        text = draw(st.text("北京大学", min_size=1, max_size=8) | st.text(CHARACTERS, min_size=1, max_size=8))
        entities = []
        for start in draw(st.lists(st.integers(0, len(text) - 1), max_size=4)):
            end = draw(st.integers(start + 1, len(text)))
            entities.append(Entity(text[start:end], draw(st.sampled_from("甲乙")), start, end))
        post = draw(st.none() | st.text(CHARACTERS, min_size=1, max_size=3))
        labeled = draw(st.booleans())
        meta = {} if labeled else {"unlabeled": True}
        made.append(Sentence(f"id {number}", text, sorted(set(entities)) if labeled else [], post, meta))
    return made


def in_order(entities: list[Entity]) -> list[Entity]:
    return sorted(entities, key=lambda entity: (entity.start, entity.end, entity.category))


@given(items=sentences(), suffix=st.sampled_from([".json", ".jsonl"]), prompt=st.sampled_from([BARE, DRESSED]))
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_was_written_comes_back(tmp_path: Path, items: list[Sentence], suffix: str, prompt: Prompt) -> None:
    path = tmp_path / f"as{suffix[1:]}{suffix}"
    lost = write(path, items, prompt)
    assert set(codes(lost)) <= {"place-lost"}
    if not items:
        text = path.read_text(encoding="utf-8")
        assert json.loads(text) == [] if suffix == ".json" else not text.strip()
        return
    found, issues = read(path, "alpaca")
    assert set(codes(issues)) <= {"duplicate-entity"}
    assert_offsets_hold(found)
    wrong = Counter(issue.id for issue in lost)
    for item, back in zip(items, found, strict=True):
        assert (back.id, back.text, back.post_id, back.meta) == (item.id, item.text, item.post_id, item.meta)
        assert {entity[:2] for entity in back.entities} == {entity[:2] for entity in item.entities}
        assert len(set(item.entities) - set(back.entities)) == wrong[item.id]
        if not wrong[item.id]:
            assert in_order(back.entities) == in_order(item.entities)


def test_a_place_that_will_not_be_found_again_is_told(tmp_path: Path) -> None:
    second = Sentence("a", "北京北京", [Entity("北京", "A", 2, 4)])
    unplaced = Sentence("b", "北京", [Entity("北京", "A")])
    issues = write(tmp_path / "x.json", [second, unplaced, Sentence("c", "")])
    assert [(issue.code, issue.id) for issue in issues] == [("empty-text", "c"), ("place-lost", "a")]
    found, _ = read(tmp_path / "x.json", "alpaca")
    assert [spans(sentence) for sentence in found] == [[(0, 2, "A")], [(0, 2, "A")]]


def test_what_llama_factory_makes_of_a_file_is_the_prompt(tmp_path: Path) -> None:
    """It joins instruction and input by a line break, and knows columns by `dataset_info.json` alone."""
    write(tmp_path / "train.json", [Sentence("a", "我爱{北京}", [Entity("北京", "A", 3, 5)])], DRESSED)
    info = json.loads((tmp_path / "dataset_info.json").read_text(encoding="utf-8"))["train"]
    [item] = json.loads((tmp_path / info["file_name"]).read_text(encoding="utf-8"))
    columns = {name: item[column] for name, column in info["columns"].items()}
    assert "\n".join([columns["prompt"], columns["query"]]) == "找出实体{类别}。\n句子：我爱{北京}\n答案："
    assert (columns["response"], columns["system"]) == ('[["北京", "A"]]', "你是助手。")
    assert item["sentence"] == "我爱{北京}"


def test_the_list_of_data_sets_keeps_what_it_holds(tmp_path: Path) -> None:
    info = tmp_path / "dataset_info.json"
    info.write_text('{"other": {"file_name": "other.json", "ranking": true}}', encoding="utf-8")
    for _ in range(2):
        write(tmp_path / "train.jsonl", [Sentence("a", "好")])
    columns = {"prompt": "instruction", "query": "input", "response": "output"}
    expected = {
        "other": {"file_name": "other.json", "ranking": True},
        "train": {"file_name": "train.jsonl", "columns": columns},
    }
    assert json.loads(info.read_text(encoding="utf-8")) == expected
    with pytest.raises(UserError, match="another file"):
        write(tmp_path / "other.jsonl", [Sentence("a", "好")])
    for broken in ("[]", "{"):
        info.write_text(broken, encoding="utf-8")
        with pytest.raises(UserError, match=r"dataset_info\.json"):
            write(tmp_path / "dev.json", [Sentence("a", "好")])
    assert not any((tmp_path / name).exists() for name in ("other.jsonl", "dev.json"))


def test_a_public_corpus_there_and_back(shared: Path, tmp_path: Path) -> None:
    """CLUENER lists every occurrence, so nearly all places are found again, and the rest is told."""
    gold, _ = read(shared / "data" / "cluener" / "dev.json", "cluener")
    lost = write(tmp_path / "dev.json", gold, DRESSED)
    found, issues = read(tmp_path / "dev.json", "auto")
    assert (len(found), issues) == (1343, [])
    pairs = [sum(len({e[:2] for e in s.entities}) for s in side) for side in (gold, found)]
    assert pairs[0] == pairs[1]
    missed = sum(len(set(a.entities) - set(b.entities)) for a, b in zip(gold, found, strict=True))
    assert missed == len(lost)
    print(f"{missed} of {sum(len(s.entities) for s in gold)} places lost")


def test_the_official_test_file_is_read(shared: Path) -> None:
    for name in ("omni_mixed", "cluener_mixed"):
        path = shared / "reference" / name / "test.json"
        sentences, issues = read(path, "auto")
        items = json.loads(path.read_text(encoding="utf-8"))
        assert [sentence.text for sentence in sentences] == [item["input"] for item in items]
        for sentence, item in zip(sentences, items, strict=True):
            assert {entity[:2] for entity in sentence.entities} == set(map(tuple, json.loads(item["output"])))
        assert set(codes(issues)) <= {"duplicate-entity", "unaligned"}  # invented gold lists some mentions too often
    sentences, issues = read(shared / "reference" / "quirks_malformed" / "test.json", "auto")
    assert len(sentences) + codes(issues)["bad-answer"] == 200
