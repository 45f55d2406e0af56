"""Characters and the tokens that cover them."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from omniner.taggers import inputs as alignment
from omniner.taggers.inputs import (
    FIRST,
    INNER,
    LAST,
    SINGLE,
    UNCOVERED,
    UNKNOWN,
    CharacterInput,
    TokenInput,
    Vocabulary,
)

FAMILY = "👨\u200d👩\u200d👧"


@pytest.fixture(scope="session")
def bert(shared: Path) -> TokenInput:
    return TokenInput(Tokenizer.from_file(str(shared / "tokenizers/bert-base-chinese/tokenizer.json")), 512)


def covered(inputs: TokenInput, text: str) -> list[str]:
    """Each character with the token that it got, or `-`."""
    encoded = inputs.encode(text)
    names = [inputs.tokenizer.id_to_token(token) for token in encoded["tokens"]]
    pairs = zip(encoded["token_of"], encoded["place"], strict=True)
    return ["-" if place == UNCOVERED else names[token] for token, place in pairs]


def test_chinese_characters_have_a_token_each(bert: TokenInput) -> None:
    assert covered(bert, "小红书") == ["小", "红", "书"]
    assert bert.encode("小红书")["place"] == [SINGLE] * 3


def test_a_run_of_emoji_is_one_token_told_apart_by_place(bert: TokenInput) -> None:
    text = "吃🍜🍜🍜吧"
    assert covered(bert, text) == ["吃", "[UNK]", "[UNK]", "[UNK]", "吧"]
    assert bert.encode(text)["place"] == [SINGLE, FIRST, INNER, LAST, SINGLE]


def test_a_joiner_has_no_token_of_its_own(bert: TokenInput) -> None:
    text = f"一{FAMILY}二"
    encoded = bert.encode(text)
    assert len(encoded["place"]) == len(encoded["token_of"]) == len(text)
    assert covered(bert, text)[0] == "一"
    assert covered(bert, text)[-1] == "二"


def test_a_latin_word_is_one_token(bert: TokenInput) -> None:
    assert covered(bert, "买Hello的") == ["买", *["[UNK]"] * 5, "的"]
    assert bert.encode("买Hello的")["place"] == [SINGLE, FIRST, INNER, INNER, INNER, LAST, SINGLE]


def test_white_space_makes_no_token(bert: TokenInput) -> None:
    assert covered(bert, " 好 的\t\u3000") == ["-", "好", "-", "的", "-", "-"]


def test_offsets_hold_where_the_tokenizer_normalises(shared: Path) -> None:
    qwen = TokenInput(Tokenizer.from_file(str(shared / "tokenizers/qwen2/tokenizer.json")), 512)
    text = "e\u0301是🍜"  # NFC makes one character of the first two; the emoji is several byte tokens
    encoded = qwen.encode(text)
    assert len(encoded["place"]) == len(text)
    assert encoded["place"][-1] == SINGLE
    assert encoded["place"][2] != UNCOVERED


@settings(deadline=None, max_examples=150)
@given(st.text(max_size=30))
def test_any_text_gets_a_place_for_each_character(text: str) -> None:
    tokenizer = alignment.character_tokenizer(Vocabulary.build(["你好吗 a"], 1, bigrams=False))
    encoded = TokenInput(tokenizer, 512).encode(text)
    # here tokens are characters: number i + 1 behind [CLS]
    assert encoded["token_of"] == list(range(1, len(text) + 1))
    assert encoded["place"] == [SINGLE] * len(text)
    assert len(encoded["tokens"]) == len(text) + 2


def test_too_many_tokens_are_cut_at_a_token(bert: TokenInput) -> None:
    short = TokenInput(bert.tokenizer, 6)
    text = "一二Hello三四五六"
    length = short.fitting(text)
    assert length < len(text)
    assert len(short.encode(text[:length])["tokens"]) <= 6
    assert len(short.encode(text[: length + 1])["tokens"]) > 6
    assert short.fitting("一二") == 2


def test_inputs_survive_json(bert: TokenInput) -> None:
    text = "小红书 Hello🍜"
    assert alignment.text_input_from_json(bert.to_json()).encode(text) == bert.encode(text)
    characters = CharacterInput(Vocabulary.build(["小红书", "红书"], 1, bigrams=True))
    assert alignment.text_input_from_json(characters.to_json()).encode(text) == characters.encode(text)


def test_vocabulary_counts_orders_and_marks_the_edges() -> None:
    vocabulary = Vocabulary.build(["甲乙", "甲丙"], 2, bigrams=True)
    assert vocabulary.characters == ("甲",)
    assert vocabulary.bigrams == ("\x02甲",)
    assert vocabulary.character_ids("甲乙") == [2, UNKNOWN]
    assert vocabulary.bigram_ids("甲乙") == [2, UNKNOWN, UNKNOWN]
    assert vocabulary.bigram_ids("乙甲")[0] == UNKNOWN
