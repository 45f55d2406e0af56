"""Samples: tokens of the whole text however they were made, one prefix for all, and an issue for all that is lost."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import chats
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shipped_prompts import CATEGORIES, SHIPPED, corpus, shipped

from omniner.config.model_groups import EncodingConfig
from omniner.errors import UserError
from omniner.llm import chat_tokenizer, prompts
from omniner.llm.chat_tokenizer import ChatTokenizer
from omniner.llm.prompts import TEMPLATE_OPTIONS, Prompt
from omniner.llm.samples import PROBE_SENTENCES, PromptEncoder, Sample, answer_limit, answer_rate, describe_sample
from omniner.records import Entity, Sentence

LIMITS = EncodingConfig(512, "fail")
AWKWARD = " \n\r\t\u3000北京：，。“”\"'[](){}<>0aé\u0301👶🏻️\u200d\ufeff#@…~-+|▁"
TRIMMING = chats.CHATML.replace("message['content']", "message['content'] | trim")


@pytest.fixture(params=[*chats.SMALL, *chats.PUBLIC])
def chat(request: pytest.FixtureRequest) -> ChatTokenizer:
    if request.param in chats.SMALL:
        return chats.small(request.param)
    return chats.public(request.getfixturevalue("shared"), request.param)


def own_prompt(categories: tuple[str, ...] = ("地点", "品牌")) -> Prompt:
    return Prompt("own", "1", "zh", "", "找出实体：\n地点、品牌", "句子：{sentence}", "official", categories)


def encoder(max_length: int = 512, on_too_long: str = "fail", name: str = "bytes") -> PromptEncoder:
    return PromptEncoder(chats.small(name), own_prompt(), EncodingConfig(max_length, on_too_long))


def answer(maker: PromptEncoder, sample: Sample) -> str:
    """The answer as text, without its end."""
    return maker.chat.decode(sample.answer[: -len(maker.chat.end)])


def bare(texts: tuple[str, ...] | list[str]) -> list[Sentence]:
    return [Sentence(str(number), text) for number, text in enumerate(texts)]


@pytest.mark.parametrize("language", ["zh", "en"])
@pytest.mark.parametrize("name", SHIPPED)
def test_prompts_are_tokenised_as_whole_texts(chat: ChatTokenizer, name: str, language: str) -> None:
    """The fast path, the instruction tokenised once, against its slow twin; and the prefix is that of all."""
    prompt = prompts.build_prompt(shipped(name, language), CATEGORIES, corpus())
    maker = PromptEncoder(chat, prompt, LIMITS)
    assert maker._parts is not None
    assert len(maker._parts.head) > 200
    prefix = maker.prefix_length([])
    (probe,), _ = maker.encode([Sentence("p", PROBE_SENTENCES[0])])

    @settings(max_examples=25, deadline=None)  # for each of 48 cases
    @given(text=st.text(AWKWARD, min_size=1, max_size=8) | st.text(min_size=1, max_size=8))
    def check(text: str) -> None:
        (sample,), _ = maker.encode([Sentence("s", text)])
        whole = chat.prompt_ids(chats.chat_text(chat, prompt, text))
        assert sample.prompt == whole
        shared = maker.prefix_length([sample])
        assert shared == prefix
        assert probe.prompt[:shared] + sample.prompt[shared:] == whole

    check()


def test_real_sentences_are_tokenised_as_whole_texts(chat: ChatTokenizer, shared: Path) -> None:
    lines = (shared / "data" / "cluener" / "dev.json").read_text(encoding="utf-8").splitlines()[:200]
    words = (shared / "data" / "wnut17" / "wnut17train.conll").read_text(encoding="utf-8").splitlines()[:400]
    maker = PromptEncoder(chat, own_prompt(), LIMITS)
    samples, _ = maker.encode(bare([json.loads(line)["text"] for line in lines] + [word for word in words if word]))
    assert [sample.prompt for sample in samples] == [
        chat.prompt_ids(chats.chat_text(chat, maker.prompt, sample.text)) for sample in samples
    ]
    prefix = maker.prefix_length(samples)
    assert prefix == maker.prefix_length(samples[:3])  # a part of a corpus has the prefix of the whole
    assert len({tuple(sample.prompt[:prefix]) for sample in samples}) == 1


def test_nearest_examples_are_tokenised_as_whole_texts(chat: ChatTokenizer) -> None:
    """They belong to the sentence: all prompts still begin with the instruction, computed once."""
    prompt = prompts.build_prompt(shipped("base", "zh", nearest=3), CATEGORIES, corpus())
    maker = PromptEncoder(chat, prompt, LIMITS)
    assert maker._parts is not None
    samples, _ = maker.encode(bare(["去北京喝小满啊3", "<|im_end|>", "小满"]))
    assert maker.prefix_length(samples) > 200
    plain = [sample for sample in samples if "<|" not in sample.text]
    assert [sample.prompt for sample in plain] == [
        chat.prompt_ids(chats.chat_text(chat, prompt, each.text)) for each in plain
    ]


def test_a_changed_sentence_is_not_shown_itself() -> None:
    chat = chats.small("bytes")
    texts = ["我们在北京喝咖啡", "我们在北京喝咖啡吗", "我们在\ud800京喝咖啡", "去上海看展"]
    prompt = prompts.build_prompt(shipped("base", "zh", nearest=2), CATEGORIES, bare(texts))

    def shown(sentence: Sentence, **sources: str) -> str:
        (sample,), _ = PromptEncoder(chat, prompt, EncodingConfig(7, "truncate")).encode([sentence], sources)
        return chat.decode(sample.prompt)

    for at, (text, alone) in enumerate([("我们在北京喝咖", 2), ("我们在北京喝咖", 2), ("我们在�京喝咖", 1)]):
        # the sentence itself, as the model sees it, and as the beginning of its neighbours
        assert shown(bare(texts)[at]).count(text) == alone, texts[at]
    exchanged = Sentence("x", "我们在南京喝咖")
    assert "：我们在北京喝咖啡\n" in shown(exchanged)
    assert "：我们在北京喝咖啡\n" not in shown(exchanged, x="我们在北京喝咖啡")


def test_a_template_that_strips_is_obeyed() -> None:
    chat = ChatTokenizer(chats.small("bytes").tokenizer, TRIMMING)
    maker = PromptEncoder(chat, own_prompt(), LIMITS)
    assert maker._parts is None
    samples, _ = maker.encode(bare(["北京 ", "北京"]))
    assert samples[0].prompt == samples[1].prompt
    assert maker.prefix_length(samples) < len(samples[0].prompt)


def test_control_tokens_in_a_sentence_are_text(chat: ChatTokenizer) -> None:
    text = "去<|im_end|></s><s><reserved_107>北京"
    maker = PromptEncoder(chat, own_prompt(), LIMITS)
    (hostile, plain), _ = maker.encode(
        [Sentence("a", text, [Entity(text[1:-2], "品牌", 1, len(text) - 2)]), Sentence("b", "去北京")]
    )
    controls = [[number for number in sample.prompt if number in chat.stops] for sample in (hostile, plain)]
    assert controls[0] == controls[1]
    assert text in chat.show(hostile.prompt)
    assert text[1:-2] in chat.decode(hostile.answer)


def test_threads_may_tokenise_with_one_tokenizer() -> None:
    chat = chats.small("bytes")
    texts = [f"{control}{sentence}" * 20 for control in chat._controls.values() for sentence in PROBE_SENTENCES]
    want = [chat.plain_ids(texts), chat.batch_prompt_ids(texts)]
    assert want[0] != want[1]

    def tokenise(number: int) -> list[list[int]]:
        found = [chat.plain_ids, chat.batch_prompt_ids][number % 2](texts)
        assert chat.decode(want[0][number]) == texts[number]
        return found

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(tokenise, range(20))) == want * 10


def test_many_texts_are_tokenised_a_part_at_a_time(chat: ChatTokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [f"第{number}句<|im_end|>" for number in range(8)]
    expected = [chat.plain_ids([text])[0] for text in texts]
    whole, sizes = chat._backend, []

    class Counting:
        encode_special_tokens = False

        def encode_batch_fast(self, part: list[str], add_special_tokens: bool) -> Any:
            sizes.append(len(part))
            whole.encode_special_tokens = self.encode_special_tokens
            try:
                return whole.encode_batch_fast(part, add_special_tokens=add_special_tokens)
            finally:
                whole.encode_special_tokens = False

    monkeypatch.setattr(chat_tokenizer, "_AT_ONCE", 3)
    monkeypatch.setattr(chat, "_backend", Counting())
    assert chat.plain_ids(texts) == expected
    assert sizes == [3, 3, 2]


def test_a_sample_holds_prompt_answer_and_end(chat: ChatTokenizer) -> None:
    sentence = Sentence("s", "去北京喝小满", [Entity("小满", "品牌", 4, 6), Entity("北京", "地点", 1, 3)])
    maker = PromptEncoder(chat, own_prompt(), LIMITS)
    (sample,), issues = maker.encode([sentence])
    assert not issues
    assert (sample.id, sample.text, sample.gold) == ("s", sentence.text, sentence.entities)
    assert tuple(sample.answer[-len(chat.end) :]) == chat.end
    written = '[["北京", "地点"], ["小满", "品牌"]]'
    assert answer(maker, sample) == written
    assert sample.answer == [*chat.answer_ids(written), *chat.end]


def test_samples_share_what_all_prompts_begin_with() -> None:
    """A list for each of 200,000 sentences would take more than a gigabyte."""
    maker = encoder()
    (one, other), _ = maker.encode(bare(["北京", "上海"]))
    assert one.head is other.head
    assert 0 <= maker.prefix_length([one, other]) - len(one.head) < 20
    assert one.prompt == [*one.head, *one.rest]
    assert one.rest != other.rest


def test_the_prefix_leaves_each_sample_a_token() -> None:
    maker = encoder()
    samples, _ = maker.encode(bare(["北京", "上海"]))
    prefix = maker.prefix_length(samples)
    short = Sample("x", "", [], samples[0].prompt[:5], [], [])
    assert prefix > 5
    assert maker.prefix_length([*samples, short]) == 4
    other = Sample("x", "", [], [-1, *samples[0].prompt], [], [])
    assert maker.prefix_length([*samples, other]) == 0


def test_too_long_fails_by_default_and_names_the_ids() -> None:
    with pytest.raises(UserError, match=r"encoding\.max_length: 1 sentence .*long-7"):
        encoder(5).encode([Sentence("long-7", "去北京喝小满"), Sentence("short", "北京")])


def test_skipped_sentences_are_issues() -> None:
    samples, issues = encoder(5, "skip").encode([Sentence("long", "去北京喝小满"), Sentence("short", "北京")])
    assert [sample.id for sample in samples] == ["short"]
    assert [(issue.code, issue.id) for issue in issues] == [("too-long-skipped", "long")]


def test_truncation_cuts_the_answer_and_keeps_the_gold() -> None:
    entities = [
        Entity("北京", "地点", 1, 3),
        Entity("小满", "品牌", 4, 6),
        Entity("小满", "品牌"),
        Entity("去", "地点"),
    ]
    maker = encoder(5, "truncate")
    (sample,), issues = maker.encode([Sentence("s", "去北京喝小满", entities)])
    assert (sample.text, sample.gold) == ("去北京喝小", entities)
    assert answer(maker, sample) == '[["北京", "地点"], ["去", "地点"]]'
    assert [issue.code for issue in issues] == ["too-long-truncated", "gold-truncated", "gold-truncated"]
    assert sample.prompt == maker.encode([Sentence("s", "去北京喝小")])[0][0].prompt


def test_what_cannot_be_learnt_is_an_issue() -> None:
    odd = Sentence("s", "去北京", [Entity("北京", "神", 1, 3), Entity("去", "地点")])
    samples, issues = encoder().encode([odd, Sentence("empty", ""), Sentence("half", "去\ud83d北\udc76京")])
    assert [(issue.code, issue.id) for issue in issues] == [
        ("inactive-category", "s"),
        ("empty-text", "empty"),
        ("half-surrogate", "half"),
    ]
    assert answer(encoder(), samples[0]) == '[["去", "地点"]]'
    assert samples[1].text == "去\ufffd北\ufffd京"


def test_half_surrogates_in_gold_do_not_stop_the_encoder() -> None:
    (sample,), _ = encoder().encode([Sentence("s", "a\ud83d", [Entity("a\ud83d", "地点", 0, 2)])])
    assert answer(encoder(), sample) == '[["a\ufffd", "地点"]]'


def test_order_and_company_of_sentences_change_nothing() -> None:
    sentences = bare([f"{text}去北京" for text in PROBE_SENTENCES])
    samples, _ = encoder().encode(sentences)
    reverse, _ = encoder().encode(sentences[::-1])
    assert reverse[::-1] == samples
    assert [encoder().encode([sentence])[0][0] for sentence in sentences[:5]] == samples[:5]
    assert encoder().encode([]) == ([], [])


def test_the_description_shows_what_is_shared_and_what_is_learnt(chat: ChatTokenizer) -> None:
    maker = PromptEncoder(chat, own_prompt(), LIMITS)
    (sample,), _ = maker.encode([Sentence("s", "喝小满👶🏻", [Entity("小满👶🏻", "品牌", 1, 5)])])
    prefix = maker.prefix_length([sample])
    lines = list(describe_sample(sample, chat, prefix))
    assert lines[0] == "s: 喝小满👶🏻"
    assert f"{prefix} tokens" in lines[1]
    assert lines[2] + lines[4] == chat.show(sample.prompt)
    assert f"{len(sample.answer)} tokens" in lines[5]
    assert "\ufffd" not in lines[6]
    assert "品牌" in lines[6].replace("' '", "")


def test_the_longest_answer_follows_from_the_sentence_and_from_train() -> None:
    """Every answer of train fits with room to spare, longer sentences have longer ones, up to 512 or as train shows."""
    maker = encoder()
    text = "去喝小满，" * 8
    dense = Sentence("d", text, [Entity("小满", "品牌", at + 2, at + 4) for at in range(0, len(text), 5)])
    samples, _ = maker.encode([dense, Sentence("s", "没有"), Sentence("l", "今天没什么好说的" * 20)])
    rate = answer_rate(samples)
    for sample in samples:
        assert len(sample.answer) < answer_limit(sample.text, rate, 0) <= 512
    limits = [answer_limit("好" * size, rate, 9) for size in (1, 10, 40, 10_000)]
    assert limits == sorted(limits)
    assert (limits[0] > 64, limits[-1]) == (True, 512)
    assert answer_limit("好" * 10_000, rate, 9, 300) == 512
    assert answer_limit("好" * 10_000, rate, 9, 697) == 1046, "train has longer ones, and half as many again may come"
    assert answer_limit("好" * 20, rate, 9, 697) == answer_limit("好" * 20, rate, 9)
    assert answer_limit("好" * 20, 0.0, 0) < answer_limit("好" * 20, None, 0), "a train of few entities says so"


def test_a_template_that_writes_a_date_or_thinks_makes_the_same_prompt_on_every_day(shared: Path) -> None:
    dated = "{{ date_string if date_string is defined else strftime_now('%d %b %Y') }}\n" + chats.CHATML
    chat = ChatTokenizer(chats.small("bytes").tokenizer, dated)
    assert chats.chat_text(chat, own_prompt(), "北京").startswith("26 Jul 2024\n")
    thinking = chats.public(shared, "qwen3")
    sent = thinking.tokenizer.apply_chat_template(
        own_prompt().messages("北京"), tokenize=False, add_generation_prompt=True, **TEMPLATE_OPTIONS
    )  # as a server does that is told so
    assert chats.chat_text(thinking, own_prompt(), "北京") == sent
    assert sent.endswith("<think>\n\n</think>\n\n")
