"""Characters and the tokens that cover them."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors

from omniner.config import compose
from omniner.config.model_groups import EncodingConfig
from omniner.corpus import sources
from omniner.taggers import inputs as taggers_inputs
from omniner.taggers.batches import SentenceEncoder
from omniner.taggers.heads import TagScheme
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

ODD = "好的 Ａ１e\u0301🍜👨\u200d\u200b\u3000\tﬁ½ｶﾞ①\ud800"
FAMILY = "👨\u200d👩\u200d👧"


@pytest.fixture(scope="session")
def bert(shared: Path) -> TokenInput:
    return TokenInput(Tokenizer.from_file(str(shared / "tokenizers/bert-base-chinese/tokenizer.json")), 512)


@pytest.fixture(scope="session")
def qwen2(shared: Path) -> TokenInput:
    return TokenInput(Tokenizer.from_file(str(shared / "tokenizers/qwen2/tokenizer.json")), 512)


def covered(inputs: TokenInput, text: str) -> list[str]:
    """Each character with the token that it got, or `-`."""
    encoded = inputs.encode(text)
    names = [inputs.tokenizer.id_to_token(token) for token in encoded["tokens"]]
    pairs = zip(encoded["token_of"], encoded["place"], strict=True)
    return ["-" if place == UNCOVERED else names[token] for token, place in pairs]


@pytest.fixture(scope="session")
def unigram() -> TokenInput:
    """XLM-R's kind: SentencePiece's word marks, compatibility forms made plain, words of several characters."""
    signs = [chr(point) for point in (*range(0x21, 0x7F), *range(0x3001, 0x3040), *range(0x4E00, 0xA000))]
    words = ["中华人民共和国", "好吃", "火锅", "Hello", "▁Hello", "World", "▁World", "123"]
    vocabulary = [(name, 0.0) for name in ("<s>", "</s>", "<unk>")] + [("▁", -3.0)]
    vocabulary += [(word, -5.0) for word in words] + [(sign, -10.0) for sign in signs]
    tokenizer = Tokenizer(models.Unigram(vocabulary, unk_id=2))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    tokenizer.add_special_tokens(["<s>", "</s>", "<unk>"])
    tokenizer.post_processor = processors.TemplateProcessing("<s> $A </s>", None, [("<s>", 0), ("</s>", 1)])
    return TokenInput(tokenizer, 512)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # the empty mark before the first word has no character
        ("好吃的火锅", [("好吃", FIRST), ("好吃", LAST), ("的", SINGLE), ("火锅", FIRST), ("火锅", LAST)]),
        # a space belongs to no word, and one that stands alone to its mark
        ("的 好吃", [("的", SINGLE), ("▁", SINGLE), ("好吃", FIRST), ("好吃", LAST)]),
        ("１２３的", [("123", FIRST), ("123", INNER), ("123", LAST), ("的", SINGLE)]),
    ],
)
def test_a_unigram_tokenizer_covers_its_words(unigram: TokenInput, text: str, expected: list[tuple[str, int]]) -> None:
    found = [name.lstrip("▁") or "▁" for name in covered(unigram, text)]
    assert list(zip(found, unigram.encode(text)["place"], strict=True)) == expected


def test_a_word_looks_the_same_with_and_without_a_space_before_it(unigram: TokenInput) -> None:
    places = unigram.encode("Hello World")["place"]
    assert places[:5] == places[6:] == [FIRST, INNER, LAST + 1, LAST + 2, LAST]
    assert places[5] == UNCOVERED


def test_all_characters_of_a_long_token_are_told_apart(unigram: TokenInput) -> None:
    text = "中华人民共和国"
    encoded = unigram.encode(text)
    assert len(set(encoded["token_of"])) == 1
    assert len(set(encoded["place"])) == len(text)
    before = TokenInput(unigram.tokenizer, 512, places=5)  # a checkpoint that knows five places
    assert set(before.encode(text)["place"]) == {FIRST, INNER, LAST}
    assert [before.is_clear(before.encode(text), at) for at in range(8)] == [True] * 2 + [False] * 4 + [True] * 2


def test_a_text_with_the_name_of_a_special_token_means_its_characters(bert: TokenInput) -> None:
    assert covered(bert, "好[SEP]的") == ["好", "[", *["[UNK]"] * 3, "]", "的"]


@settings(deadline=None, max_examples=100)
@given(text=st.text(st.one_of(st.sampled_from(ODD), st.characters()), max_size=20))
@pytest.mark.parametrize("kind", ["unigram", "bert", "qwen2"])
def test_a_character_has_a_token_over_it_or_none_has_it(
    kind: str, unigram: TokenInput, bert: TokenInput, qwen2: TokenInput, text: str
) -> None:
    inputs = {"unigram": unigram, "bert": bert, "qwen2": qwen2}[kind]
    encoded, encoding = inputs.encode(text), inputs.tokenizer.encode(re.sub("[\ud800-\udfff]", "\ufffd", text))
    assert len(encoded["place"]) == len(encoded["token_of"]) == len(text)
    special = [bool(flag) for flag in encoding.special_tokens_mask]
    over = [
        [n for n, (a, b) in enumerate(encoding.offsets) if a <= at < b and not special[n]] for at in range(len(text))
    ]
    for at, (token, place) in enumerate(zip(encoded["token_of"], encoded["place"], strict=True)):
        if place != UNCOVERED:
            assert token in over[at]
        elif text[at].isalnum():
            assert not over[at]


@pytest.mark.parametrize("corpus", ["cluener", "weibo", "resume", "cmeee", "wnut17"])
def test_every_gold_span_of_the_public_corpora_survives_or_is_listed(
    corpus: str, shared: Path, unigram: TokenInput, bert: TokenInput, qwen2: TokenInput
) -> None:
    """Back from states to spans: characters that look the same get the same tag."""
    data = compose.load([f"data={corpus}", f"data.root={shared / 'data' / corpus}"]).data
    splits = sources.load_corpus(data, None).splits.values()
    chosen = [sentence for split in splits for sentence in split[:400] if sentence.entities]
    scheme = TagScheme(sorted({entity.category for sentence in chosen for entity in sentence.entities}))
    config = EncodingConfig(max_length=10_000, on_too_long="skip")
    for inputs in (unigram, bert, qwen2):
        examples, issues = SentenceEncoder(without_limit(inputs), scheme, config, None).encode(chosen)
        lost = 0
        for example in examples:
            states = list(zip(example.inputs["token_of"].tolist(), example.inputs["place"].tolist(), strict=True))
            edges = {0, len(states)} | {at for at in range(1, len(states)) if states[at] != states[at - 1]}
            lost += sum(not {start, end} <= edges for start, end, _ in example.spans)
        assert lost == sum(issue.code == "unclear-boundary" for issue in issues)
        assert lost <= 0.001 * sum(len(example.spans) for example in examples)


def without_limit(inputs: TokenInput) -> TokenInput:
    """The same tokens of a model without a limit."""
    return TokenInput(inputs.tokenizer, 100_000)


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
    assert bert.encode("买Hello的")["place"] == [SINGLE, FIRST, INNER, LAST + 1, LAST + 2, LAST, SINGLE]


@pytest.fixture(scope="session")
def folding(bert: TokenInput) -> TokenInput:
    return TokenInput(bert.tokenizer, 512, folds=True)


def test_a_capital_letter_that_the_vocabulary_lacks_is_read_as_a_small_one(folding: TokenInput) -> None:
    text = "买Hello的NBA"
    assert folding.encode(text) == folding.encode(text.lower())
    assert covered(folding, text) == ["买", *["hello"] * 5, "的", *["nba"] * 3]
    assert folding.unknown(folding.encode(text)) == []


@pytest.mark.parametrize(
    ("text", "token"),
    [
        ("é", "e"),
        ("É", "e"),
        ("Ａ", "ａ"),  # the vocabulary has the small letter of full width
        ("ｱ", "ア"),
        ("İ", "i"),  # its lower case is two characters
        ("１", "１"),  # known as it is
        ("“", "[UNK]"),
        ("Ⅶ", "[UNK]"),  # VII is three
        ("🍜", "[UNK]"),
    ],
)
def test_a_character_is_read_in_its_most_similar_known_form(folding: TokenInput, text: str, token: str) -> None:
    assert covered(folding, f"好{text}好") == ["好", token, "好"]
    assert folding.unknown(folding.encode(f"好{text}好")) == ([1] if token == "[UNK]" else [])


def test_known_characters_are_read_as_they_are(bert: TokenInput, unigram: TokenInput, qwen2: TokenInput) -> None:
    cased = TokenInput(taggers_inputs.character_tokenizer(Vocabulary.build(["Aaé"], 1, bigrams=False)), 512, folds=True)
    assert covered(cased, "AaéÉＡ") == ["A", "a", "é", "é", "A"]
    for inputs, text in ((unigram, "Hello好吃Ａ"), (qwen2, "Hello ÉＡ🍜"), (bert, "好１～·")):
        assert TokenInput(inputs.tokenizer, 512, folds=True).encode(text) == inputs.encode(text)


@settings(deadline=None, max_examples=100)
@given(text=st.text(st.one_of(st.sampled_from(f"{ODD}AÉİ"), st.characters()), max_size=20))
def test_folding_makes_no_character_unknown(bert: TokenInput, folding: TokenInput, text: str) -> None:
    before, now = bert.encode(text), folding.encode(text)
    assert len(now["place"]) == len(text)
    assert set(folding.unknown(now)) <= set(bert.unknown(before))


def test_the_tokenizers_own_lower_case_is_used_where_it_is_declared(bert: TokenInput) -> None:
    tokenizer = Tokenizer.from_str(bert.tokenizer.to_str())
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    for folds in (False, True):
        assert covered(TokenInput(tokenizer, 512, folds=folds), "É好NBA") == ["e", "好", *["nba"] * 3]


@pytest.mark.parametrize(
    ("kind", "text", "at"), [("bert", "买Hello🍜的", [1, 2, 3, 4, 5, 6]), ("unigram", "好🍜a", [1])]
)
def test_unknown_characters_are_found(
    kind: str, text: str, at: list[int], bert: TokenInput, unigram: TokenInput
) -> None:
    inputs = {"bert": bert, "unigram": unigram}[kind]
    assert inputs.unknown(inputs.encode(text)) == at


@pytest.mark.parametrize(
    "kind",
    [
        lambda words: models.Unigram([(word, -1.0) for word in words], unk_id=2),
        lambda words: models.WordLevel({word: at for at, word in enumerate(words)}, unk_token="[UNK]"),
        lambda words: models.BPE({word: at for at, word in enumerate(words)}, [], unk_token="[UNK]"),
    ],
)
def test_words_that_look_like_the_number_of_the_unknown_one_are_words(
    kind: Callable[[list[str]], models.Model],
) -> None:
    inputs = TokenInput(Tokenizer(kind(["unk_id", '"unk_id":0', "[UNK]", "好", "\\"])), 512)
    assert inputs.unknown(inputs.encode("好")) == []
    assert inputs.unknown(inputs.encode("坏")) == [0]


def test_a_model_of_pieces_without_an_unknown_one_knows_everything() -> None:
    assert TokenInput(Tokenizer(models.Unigram([("好", -1.0)])), 512)._unknown_id is None
    assert TokenInput(Tokenizer(models.BPE({"unk_id": 0, "好": 1}, [])), 512)._unknown_id is None


def test_the_words_of_a_tokenizer_are_not_parsed_for_one_number(
    unigram: TokenInput, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("json.loads", lambda *_: pytest.fail("parsed"))
    inputs = TokenInput(unigram.tokenizer, 512)
    assert inputs.unknown(inputs.encode("好🍜a")) == [1]


def test_a_tokenizer_of_bytes_knows_everything(qwen2: TokenInput) -> None:
    assert qwen2.unknown(qwen2.encode(ODD)) == []


def test_white_space_makes_no_token(bert: TokenInput) -> None:
    assert covered(bert, " 好 的\t\u3000") == ["-", "好", "-", "的", "-", "-"]


def test_offsets_hold_where_the_tokenizer_normalises(qwen2: TokenInput) -> None:
    text = "e\u0301是🍜"  # NFC makes one character of the first two; the emoji is several byte tokens
    encoded = qwen2.encode(text)
    assert len(encoded["place"]) == len(text)
    assert encoded["place"][-1] == SINGLE
    assert encoded["place"][2] != UNCOVERED


@settings(deadline=None, max_examples=150)
@given(st.text(max_size=30))
def test_any_text_gets_a_place_for_each_character(text: str) -> None:
    tokenizer = taggers_inputs.character_tokenizer(Vocabulary.build(["你好吗 a"], 1, bigrams=False))
    encoded = TokenInput(tokenizer, 512).encode(text)
    # here tokens are characters: number i + 1 behind [CLS]
    assert encoded["token_of"] == list(range(1, len(text) + 1))
    assert encoded["place"] == [SINGLE] * len(text)
    assert len(encoded["tokens"]) == len(text) + 2


def test_too_many_tokens_are_cut_at_a_token(bert: TokenInput) -> None:
    short = TokenInput(bert.tokenizer, 6)
    text = "一二Hello三四五六"
    inputs, length = short.encode_fitting(text)
    assert length < len(text)
    assert inputs == short.encode(text[:length])
    assert len(short.encode(text[:length])["tokens"]) <= 6
    assert len(short.encode(text[: length + 1])["tokens"]) > 6
    assert short.encode_fitting("一二") == (short.encode("一二"), 2)


def test_inputs_survive_json(bert: TokenInput) -> None:
    text = "小红书 Hello 🍜"
    assert taggers_inputs.text_input_from_json(bert.to_json()).encode(text) == bert.encode(text)
    folding = TokenInput(bert.tokenizer, 512, folds=True)
    assert (
        taggers_inputs.text_input_from_json(folding.to_json()).encode(text) == folding.encode(text) != bert.encode(text)
    )
    assert "folds" not in bert.to_json(), "checkpoints of older versions have none, and read such words as [UNK]"
    older = {name: value for name, value in bert.to_json().items() if name != "places"}
    assert taggers_inputs.text_input_from_json(older).places == LAST + 1, "as its embeddings were trained"
    characters = CharacterInput(Vocabulary.build(["小红书", "红书"], 1, bigrams=True))
    assert taggers_inputs.text_input_from_json(characters.to_json()).encode(text) == characters.encode(text)


def test_vocabulary_counts_orders_and_marks_the_edges() -> None:
    vocabulary = Vocabulary.build(["甲乙", "甲丙"], 2, bigrams=True)
    assert vocabulary.characters == ("甲",)
    assert vocabulary.bigrams == ("\x02甲",)
    assert vocabulary.character_ids("甲乙") == [2, UNKNOWN]
    assert vocabulary.bigram_ids("甲乙") == [2, UNKNOWN, UNKNOWN]
    assert vocabulary.bigram_ids("乙甲")[0] == UNKNOWN
