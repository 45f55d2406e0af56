"""The tokenizer of a corpus: every text comes back, copying is token by token, parts of an answer are tokens."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import small_causal
from chats import chat_text
from hypothesis import assume, given
from hypothesis import strategies as st
from small_causal import ANSWER, CATEGORIES, PROMPT, TEXTS

from omniner.answers import render_answer
from omniner.errors import UserError
from omniner.llm import random_model
from omniner.llm.chat_tokenizer import ChatTokenizer
from omniner.records import Entity

TOKENIZER = random_model.build_corpus_tokenizer(TEXTS, PROMPT, 1000)
CHAT = ChatTokenizer(TOKENIZER, None)
PARTS = [
    '[["',
    '", ',
    '], ["',
    "]]",
    '"人名"',
    "<|im_end|>",
    "北京",
    "🍜",
    "e\u0301",
    "é",
    " ",
    "\n",
    "句子：",
    "李",
    "龘",
]


def pieces(text: str) -> list[str]:
    return [CHAT.show([number]) for number in CHAT.answer_ids(text)]


@given(st.one_of(st.text(), st.lists(st.sampled_from(PARTS)).map("".join)))
def test_every_text_comes_back(text: str) -> None:
    ids = CHAT.answer_ids(text)
    assert CHAT.show(ids) == text
    assert not CHAT.stops & set(ids)


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=30))
def test_neighbours_are_never_merged(text: str) -> None:
    """Against the slow twin: each character by itself."""
    assume(not any(whole in text for whole in TOKENIZER.get_added_vocab()))
    assert CHAT.answer_ids(text) == [number for character in text for number in CHAT.answer_ids(character)]


def test_a_character_seen_twice_is_one_token_and_others_are_bytes() -> None:
    assert pieces("北京🍜") == ["北", "京", "🍜"]
    assert len(CHAT.answer_ids("龘")) == 3
    assert len(CHAT.answer_ids("没")) > 1  # seen once: so that bytes are learnt, too


@pytest.mark.parametrize("style", ["official", "compact"])
def test_an_answer_is_its_characters_and_one_token_for_each_part(style: str) -> None:
    entities = [Entity("北京", "地点_城市"), Entity('🍜"京', "食物_小吃/零食"), Entity("人名", "人名")]
    comma, between = {"official": ('", ', '], ["'), "compact": ('",', '],["')}[style]
    expected = ['[["', "北", "京", comma, '"地点_城市"', between, "🍜", "\\", '"', "京", comma, '"食物_小吃/零食"']
    expected += [between, "人", "名", comma, '"人名"', "]]"]
    assert pieces(render_answer(entities, style)) == expected


def test_a_prompt_is_short_and_its_example_is_cut_like_an_answer() -> None:
    text = chat_text(CHAT, PROMPT, "")
    ids = CHAT.prompt_ids(text)
    shown = [CHAT.show([number]) for number in ids]
    assert "请从句子里抽取实体，" in shown
    assert "食物_小吃/零食、" in shown
    assert shown[shown.index('[["') :][:6] == ['[["', "李", "四", '", ', '"人名"', "]]"]
    assert len(ids) < len(text) / 2


def test_a_clause_that_a_training_sentence_holds_is_no_token() -> None:
    tokenizer = random_model.build_corpus_tokenizer([*TEXTS, "请从句子里抽取实体，好"], PROMPT, 1000)
    assert "请从句子里抽取实体，" not in tokenizer.get_vocab()
    assert "请从句子里抽取实体，" in TOKENIZER.get_vocab()


@pytest.mark.parametrize("kind", ["qwen2", "qwen3", "llama", "mistral", "gemma"])
def test_a_plain_loader_reads_the_same_tokens_for_any_kind_of_model(kind: str, tmp_path: Path) -> None:
    """transformers 5 puts its own pre-tokenizer in place of ours where the model is a Qwen2."""
    from transformers import AutoConfig, AutoTokenizer

    TOKENIZER.save_pretrained(tmp_path)
    AutoConfig.for_model(kind).save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    messages: list[dict[str, str]] = [
        *PROMPT.messages("Hi 北京\t的 don't 123  龘"),
        {"role": "assistant", "content": ANSWER},
    ]
    text = TOKENIZER.apply_chat_template(messages, tokenize=False)
    assert loaded.apply_chat_template(messages, tokenize=False) == text
    ids = loaded(text, add_special_tokens=False)["input_ids"]
    assert ids == CHAT.prompt_ids(text)
    assert loaded.decode(ids) == text
    assert loaded.eos_token == "<|im_end|>"


def test_the_same_corpus_makes_the_same_tokenizer_whatever_the_hash_seed() -> None:
    script = (
        "import small_causal as s\nfrom omniner.llm.random_model import build_corpus_tokenizer\n"
        "print(build_corpus_tokenizer(s.TEXTS, s.PROMPT, 420).backend_tokenizer.to_str(), end='')"
    )
    seed = "2" if os.environ.get("PYTHONHASHSEED") == "1" else "1"
    environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(Path(small_causal.__file__).parent)}
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment)
    assert result.returncode == 0, result.stderr
    assert result.stdout == random_model.build_corpus_tokenizer(TEXTS, PROMPT, 420).backend_tokenizer.to_str()
    assert len(json.loads(result.stdout)["model"]["vocab"]) > 256


@pytest.mark.parametrize("vocabulary", [280, 300, 400, 5000])
def test_the_vocabulary_is_kept_within_its_limit(vocabulary: int) -> None:
    tokenizer = random_model.build_corpus_tokenizer(TEXTS, PROMPT, vocabulary)
    assert len(tokenizer) <= vocabulary
    chat = ChatTokenizer(tokenizer, None)
    assert all(chat.show(chat.answer_ids(text)) == text for text in TEXTS)
    assert len(chat.answer_ids('"地点_城市"')) == 1


def test_the_most_frequent_characters_come_first() -> None:
    texts = ["甲" * 2 + "乙" * 9]
    prompt = dataclasses.replace(PROMPT, system="", instruction="", input="{sentence}", categories=())
    room = 256 + 3 + 6 + 3
    chat = ChatTokenizer(random_model.build_corpus_tokenizer(texts, prompt, room + 2), None)
    assert [len(chat.answer_ids(character)) for character in "乙甲"] == [1, 3]


def test_too_small_a_vocabulary_is_refused_with_the_number_needed() -> None:
    with pytest.raises(UserError, match=r"model\.vocabulary: 200, but .* 4 categories alone are \d+\. Set it to \d+"):
        random_model.build_corpus_tokenizer(TEXTS, PROMPT, 200)


@pytest.mark.parametrize("category", ["café", "naïve", 'a"b', "x\\y", "<0x41>", ""])
def test_odd_categories_do_no_harm(category: str) -> None:
    """A token of Latin-1 letters alone would come back as bytes: such a category is spelt."""
    prompt = dataclasses.replace(PROMPT, categories=(*CATEGORIES, category))
    chat = ChatTokenizer(random_model.build_corpus_tokenizer(TEXTS, prompt, 1000), None)
    answer = render_answer([Entity("北", category)], "official")
    assert chat.decode(chat.answer_ids(answer)) == answer


def test_a_lone_surrogate_in_a_text_is_left_out() -> None:
    tokenizer: Any = random_model.build_corpus_tokenizer(["a\ud800b\ud800"], PROMPT, 1000)
    assert len(tokenizer) > 256
