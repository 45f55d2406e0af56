"""What a server is told of the form of answers, checked with the engine that follows such grammars and schemas."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from omniner.answers import parse_answer, render_answer
from omniner.llm.serving import openai_engine
from omniner.records import Entity

CATEGORIES = ("地点_城市", '怪"类\\/名', "品牌")
TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=10)


class Checker:
    """llguidance over single bytes: whether a text is a whole answer by a grammar."""

    def __init__(self, grammar: str) -> None:
        llguidance = pytest.importorskip("llguidance", reason="checks grammars")
        self.tokenizer, self.grammar, self.matcher = llguidance.LLTokenizer("byte"), grammar, llguidance.LLMatcher
        assert not self.matcher.validate_grammar(grammar, self.tokenizer)

    def takes(self, answer: str) -> bool:
        tokens = self.tokenizer.tokenize_bytes(answer.encode())
        matcher = self.matcher(self.tokenizer, self.grammar, log_level=0)
        if matcher.validate_tokens(tokens) != len(tokens):
            return False
        return bool(matcher.consume_tokens(tokens)) and bool(matcher.is_accepting())


def of_lark(text: str, style: str = "official") -> Checker:
    llguidance = pytest.importorskip("llguidance", reason="checks grammars")
    return Checker(llguidance.LLMatcher.grammar_from_lark(openai_engine.lark_grammar(text, CATEGORIES, style)))


def of_schema(fields: dict[str, Any]) -> Checker:
    llguidance = pytest.importorskip("llguidance", reason="checks grammars")
    schema = fields["response_format"]["json_schema"]["schema"]
    return Checker(llguidance.LLMatcher.grammar_from_json_schema(json.dumps(schema)))


@given(data=st.data(), text=TEXT, style=st.sampled_from(["official", "compact"]))
@settings(max_examples=60, deadline=None)
def test_the_grammar_takes_every_answer_of_the_training_format(data: st.DataObject, text: str, style: str) -> None:
    entities = []
    for start in data.draw(st.lists(st.integers(0, len(text) - 1), max_size=3)):
        end = data.draw(st.integers(start + 1, len(text)))
        entities.append(Entity(text[start:end], data.draw(st.sampled_from(CATEGORIES)), start, end))
    assert of_lark(text, style).takes(render_answer(entities, style))


@pytest.mark.parametrize(
    "answer",
    [
        '[["京北", "品牌"]]',
        '[["北京好", "品牌"]]',
        '[["", "品牌"]]',
        '[["北京", "省份"]]',
        '[["北京","品牌"]]',
        '[["北京", "品牌"] , ["北京", "品牌"]]',
        '[ ["北京", "品牌"]]',
        '[["北京", "品牌"]] ',
        '[["北京", "品牌"]',
        '[["\\", "品牌"]]',  # half of an escape
        '[["n", "品牌"]]',
        "[[]]",
        "",
    ],
)
def test_the_grammar_takes_nothing_else(answer: str) -> None:
    checker = of_lark('在北京\n说"好\\')
    assert checker.takes('[["北京", "品牌"], ["京\\n说\\"好\\\\", "地点_城市"]]')
    assert not checker.takes(answer)


def test_an_empty_sentence_has_no_entities() -> None:
    checker = of_lark("")
    assert checker.takes("[]")
    assert not checker.takes('[["", "品牌"]]')


def test_the_list_schema() -> None:
    checker = of_schema(openai_engine.list_schema(CATEGORIES))
    for right in ("[]", '[["北京", "品牌"], ["好", "地点_城市"]]', '[["北京","怪\\"类\\\\/名"]]'):
        assert checker.takes(right)
    for wrong in ('[["北京", "省份"]]', '[["北京"]]', '[["北京", "品牌", "品牌"]]', '[[1, "品牌"]]', "{}", '["北京"]'):
        assert not checker.takes(wrong)


def test_the_object_schema_and_the_list_of_its_answers() -> None:
    checker = of_schema(openai_engine.object_schema(CATEGORIES))
    answer = '{"entities": [{"text": "北\\n京", "category": "品牌"}]}'
    assert checker.takes(answer)
    assert not checker.takes('{"entities": [{"text": "北京", "category": "省份"}]}')
    assert not checker.takes("[]")
    assert openai_engine.entities_as_list(answer, "official") == '[["北\\n京", "品牌"]]'
    assert openai_engine.entities_as_list('{"entities":[]}', "compact") == "[]"
    assert parse_answer(openai_engine.entities_as_list(answer, "compact")).status == "ok"


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "[]",
        '[["北京", "品牌"]]',
        "{",
        "[" * 100_000,
        '{"entities": 3}',
        '{"entities": [["北京", "品牌"]]}',
        '{"entities": [{"text": "北京"}]}',
        '{"entities": [{"text": 1, "category": "A"}]}',
        '{"entities": [], "more": 1}',
    ],
)
def test_any_other_answer_stays_as_it_is(answer: str) -> None:
    assert openai_engine.entities_as_list(answer, "official") == answer
