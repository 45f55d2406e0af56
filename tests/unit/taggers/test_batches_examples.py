"""Examples, and what is lost on the way to them."""

from __future__ import annotations

import itertools
import logging
from pathlib import Path

import pytest
import torch
from tokenizers import Encoding, pre_tokenizers

from omniner import progress
from omniner.config.model_groups import EncodingConfig
from omniner.errors import UserError
from omniner.records import Entity, Sentence
from omniner.taggers.batches import SentenceEncoder
from omniner.taggers.heads import TagScheme
from omniner.taggers.inputs import CharacterInput, TokenInput, Vocabulary, character_tokenizer


def encoder(max_length: int, on_too_long: str, max_span: int | None = None) -> SentenceEncoder:
    vocabulary = Vocabulary.build(["张三在北京大学"], 1, bigrams=True)
    config = EncodingConfig(max_length, on_too_long)
    return SentenceEncoder(CharacterInput(vocabulary), TagScheme(["人", "地", "校"]), config, max_span)


def sentence(*entities: tuple[int, int, str], id: str = "s", text: str = "张三在北京大学") -> Sentence:
    return Sentence(id, text, [Entity(text[start:end], category, start, end) for start, end, category in entities])


def test_encoding_says_how_far_it_is(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """200,000 sentences take half a minute."""
    clock = itertools.count(0, 11)
    monkeypatch.setattr(progress.time, "monotonic", lambda: float(next(clock)))
    with caplog.at_level(logging.INFO, "omniner"):
        encoder(100, "fail").encode([sentence(id="a"), sentence(id="b")])
    assert caplog.messages[-1].startswith("2 of 2 sentences encoded, ")


def test_an_example_has_inputs_tags_and_gold() -> None:
    made, issues = encoder(100, "fail").encode([sentence((0, 2, "人"), (3, 7, "校"))])
    assert not issues
    (example,) = made
    assert example.spans == [(0, 2, 0), (3, 7, 2)]
    assert example.inputs["characters"].shape == (7,)
    assert example.inputs["bigrams"].shape == (8,)
    names = [TagScheme(["人", "地", "校"]).tags[tag] for tag in example.tags.tolist()]
    assert names == ["B-人", "E-人", "O", "B-校", "I-校", "I-校", "E-校"]


def test_too_long_fails_by_default_and_names_the_ids() -> None:
    with pytest.raises(UserError, match=r"encoding\.max_length: 1 sentence .*long-7"):
        encoder(5, "fail").encode([sentence(id="long-7"), sentence(id="short", text="张三")])


def test_a_text_is_tokenised_once_and_again_only_where_it_does_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs, seen = TokenInput(character_tokenizer(Vocabulary.build(["张三在北京大学"], 1, bigrams=False)), 8), []

    def encoding(self: TokenInput, text: str) -> Encoding:
        seen.append(text)
        return self.tokenizer.encode(text)

    monkeypatch.setattr(TokenInput, "_encoding", encoding)
    maker = SentenceEncoder(inputs, TagScheme(["人"]), EncodingConfig(100, "truncate"), None)
    (short, long), _ = maker.encode([sentence(text="张三"), sentence(text="张三在北京大学")])
    assert (short.length, long.length) == (2, 6)
    assert seen == ["张三", "张三在北京大学", "张三在北京大"]


def test_skipped_sentences_are_issues() -> None:
    made, issues = encoder(5, "skip").encode([sentence(id="long"), sentence(id="short", text="张三")])
    assert [example.id for example in made] == ["short"]
    assert [(issue.code, issue.id) for issue in issues] == [("too-long-skipped", "long")]


def test_truncation_names_the_lost_gold_and_keeps_it_for_scoring() -> None:
    whole = sentence((0, 2, "人"), (3, 7, "校"))
    made, issues = encoder(5, "truncate").encode([whole])
    assert made[0].length == 5
    assert made[0].spans == [(0, 2, 0)]
    assert made[0].gold == whole.entities
    assert [issue.code for issue in issues] == ["too-long-truncated", "gold-truncated"]


def test_what_cannot_be_learnt_is_an_issue() -> None:
    odd = sentence((3, 7, "校"), (3, 5, "地"), (0, 2, "神"))
    odd.entities.append(Entity("三", "人"))
    made, issues = encoder(100, "fail").encode([odd, sentence(id="empty", text="")])
    assert made[0].spans == [(3, 5, 1), (3, 7, 2)]
    codes = [(issue.code, issue.id) for issue in issues]
    assert codes == [("inactive-category", "s"), ("no-offsets", "s"), ("nested-entity", "s"), ("empty-text", "empty")]
    assert issues[2].message.endswith("(校), but by head=span")
    # a span head can express nesting
    _, issues = encoder(100, "fail", max_span=4).encode([odd])
    assert [issue.code for issue in issues] == ["inactive-category", "no-offsets"]
    _, issues = encoder(100, "fail", max_span=3).encode([odd])
    assert [issue.code for issue in issues] == ["inactive-category", "no-offsets", "long-entity"]


def test_a_text_of_which_nothing_fits_is_skipped_and_not_cut() -> None:
    inputs = TokenInput(character_tokenizer(Vocabulary.build(["张三"], 1, bigrams=False)), 2)  # [CLS] and [SEP]
    maker = SentenceEncoder(inputs, TagScheme(["人"]), EncodingConfig(100, "truncate"), None)
    made, issues = maker.encode([sentence(text="张三")])
    assert (made, [issue.code for issue in issues]) == ([], ["too-long-skipped"])


def test_an_end_between_characters_that_the_model_cannot_tell_apart_is_an_issue() -> None:
    tokenizer = character_tokenizer(Vocabulary.build(["张三在北京"], 1, bigrams=False))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()  # no token covers white space
    maker = SentenceEncoder(TokenInput(tokenizer, 512), TagScheme(["人"]), EncodingConfig(100, "fail"), None)
    for text, span in (("张  三", (0, 2)), ("张  三", (2, 4))):
        _, issues = maker.encode([sentence((*span, "人"), text=text)])
        assert [issue.code for issue in issues] == ["unclear-boundary"]
    for text, span in (("张  三", (0, 1)), ("张", (0, 1))):  # the edges of a text are clear
        assert maker.encode([sentence((*span, "人"), text=text)])[1] == []


def test_spans_stand_in_the_order_of_the_text() -> None:
    spans = [(start, start + 1, "人") for start in reversed(range(7))]
    (example,), _ = encoder(100, "fail").encode([sentence(*spans)])
    assert example.spans == [(start, start + 1, 0) for start in range(7)]


def test_encoding_is_the_same_for_every_run(tmp_path: Path) -> None:
    first, _ = encoder(100, "fail").encode([sentence((0, 2, "人"))])
    second, _ = encoder(100, "fail").encode([sentence((0, 2, "人"))])
    assert all(torch.equal(first[0].inputs[name], second[0].inputs[name]) for name in first[0].inputs)
