"""Guided answers: always whole, in the training format, of known categories and pieces of the sentence."""

from __future__ import annotations

import importlib.util
import json
import random
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path

import chats
import numpy as np
import pytest
import small_corpus
import torch
from grammar_engine import Reference
from tokenizers import Tokenizer, decoders, models, normalizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from omniner.answers import STYLES, parse_answer, prediction_from_answer, render_answer
from omniner.corpus import sample as corpus_sample
from omniner.errors import UserError
from omniner.llm import random_model
from omniner.llm.chat_tokenizer import ChatTokenizer
from omniner.llm.decoding.automaton import TokenTrie, byte_fallback_bytes, byte_level_bytes
from omniner.llm.decoding.constraint import AnswerConstraint, AnswerState, SchemaConstraint
from omniner.llm.decoding.decoder import Decoder, DecodingRequest
from omniner.llm.prompts import Prompt
from omniner.records import Entity, Sentence

CATEGORIES = ["地点_城市", "地点_景点/公园", "地点", "日期", 'a"b\\c', "其他\n"]
SENTENCES = [
    "我在北京的颐和园玩了3天",
    '他说"你好\\n"\t再见\n换行',
    "👩‍👩‍👧‍👦和👍🏽去\u2028海边\u2029了✨",
    "\u0301\u0323x\u0300 e\u0323\u0302y ノ\u3099 \u1100\u1161 \u212b",
    'Hello "world", it\'s [["x", "y"]], <|im_end|><think> 123.50',
    "a\u0323\u0308 cafe\u0301",
    "\x00\x1f\x7f\ufeff",
    "哈哈哈哈",
    "甲",
    '"',
    "\\",
    " ",
    "𠮷野家",
    "",
    "长" * 300 + "城。",
]
PROMPT = Prompt(
    "p", "1", "zh", "", "找出实体：" + "、".join(CATEGORIES), "句子：{sentence}", "official", tuple(CATEGORIES)
)


@pytest.fixture(scope="module")
def qwen(shared: Path) -> ChatTokenizer:
    return ChatTokenizer(AutoTokenizer.from_pretrained(shared / "tokenizers" / "qwen2"), None)


@pytest.fixture(scope="module")
def small() -> ChatTokenizer:
    """A tokenizer built from a corpus."""
    return ChatTokenizer(random_model.build_corpus_tokenizer(SENTENCES * 2, PROMPT, 600), None)


@pytest.fixture(scope="module")
def llama() -> ChatTokenizer:
    """A tokenizer that falls back to bytes and has a mark for spaces."""
    texts = ["<s>", "</s>", "<unk>", *(f"<0x{byte:02X}>" for byte in range(256))]
    texts += [*'[]", abcxyz甲北京地点_城市', '["', '",', '"]', "]]", "北京", '▁"', '▁["']
    entries = {text.replace(" ", "▁"): at for at, text in enumerate(dict.fromkeys(texts))}
    merges = [("[", '"'), ('"', ","), ('"', "]"), ("]", "]"), ("北", "京"), ("▁", '"'), ("▁", '["')]
    backend = Tokenizer(models.BPE(entries, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    backend.normalizer = normalizers.Replace(" ", "▁")
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    backend.add_special_tokens(["<s>", "</s>", "<unk>"])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>", unk_token="<unk>")
    return ChatTokenizer(tokenizer, "{% for m in messages %}{{ m['content'] }}</s>{% endfor %}")


@pytest.fixture(params=["qwen", "small", "llama"])
def chat(request: pytest.FixtureRequest) -> ChatTokenizer:
    found: ChatTokenizer = request.getfixturevalue(request.param)
    return found


@pytest.fixture(scope="module")
def constraints() -> Callable[[ChatTokenizer, str], AnswerConstraint]:
    """Guides over `CATEGORIES`, each made once."""
    made: dict[tuple[int, str], AnswerConstraint] = {}

    def get(chat: ChatTokenizer, style: str) -> AnswerConstraint:
        key = (id(chat), style)
        return made.get(key) or made.setdefault(key, AnswerConstraint(chat, CATEGORIES, style))

    return get


def check(text: str, raw: str, style: str) -> None:
    """An answer is what it promises to be."""
    pairs = json.loads(raw)
    assert raw == json.dumps(pairs, ensure_ascii=False, separators=STYLES[style])
    assert parse_answer(raw).status == "ok"
    prediction = prediction_from_answer(Sentence("1", text), raw, "", "")
    assert prediction.parse == "ok"
    for entity in prediction.entities:
        assert entity.category in CATEGORIES
        assert entity.text
        assert text[entity.start : entity.end] == entity.text


Choose = Callable[[AnswerState, np.ndarray], int]


def write(constraint: AnswerConstraint, state: AnswerState, choose: Choose, jump: bool) -> list[int]:
    """An answer, token by token, without its stop token."""
    tokens: list[int] = []
    while True:
        forced = state.forced() if jump else []
        for token in forced or [choose(state, state.allowed())]:
            state.advance(token)
            tokens.append(token)
        if state.stopped:
            assert tokens[-1] == constraint.stop
            return tokens[:-1]


def by_chance(constraint: AnswerConstraint, seed: int) -> Choose:
    """Half of the time any allowed token, otherwise the first or the last one; mostly another one than a bracket."""
    draw = random.Random(seed)

    def choose(_: AnswerState, ids: np.ndarray) -> int:
        on = [int(token) for token in ids if not set(constraint.spellings.get(int(token), b"]")) <= set(b"[]")]
        among = on if on and draw.random() < 0.8 else ids.tolist()
        return int(among[draw.choice([0, -1, draw.randrange(len(among)), draw.randrange(len(among))])])

    return choose


def told(tokens: list[int]) -> Choose:
    """These tokens, as long as they are allowed."""
    wanted = iter(tokens)
    return lambda _, ids: next(token for token in (next(wanted), int(ids[0])) if token in ids)


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("jump", [False, True])
def test_answers_of_chance_are_whole(
    chat: ChatTokenizer, constraints: Callable[[ChatTokenizer, str], AnswerConstraint], style: str, jump: bool
) -> None:
    constraint = constraints(chat, style)
    answered = 0
    for text in SENTENCES:
        for seed, budget in enumerate((constraint.reserve, constraint.reserve + 1, constraint.reserve + 7, 60, 200)):
            tokens = write(constraint, constraint.start(text, budget), by_chance(constraint, seed), jump)
            assert len(tokens) < budget
            raw = chat.decode(tokens)
            check(text, raw, style)
            answered += raw != "[]"
    assert answered > len(SENTENCES)


@pytest.mark.parametrize("style", STYLES)
def test_an_answer_that_never_wants_to_end_is_ended(
    chat: ChatTokenizer, constraints: Callable[[ChatTokenizer, str], AnswerConstraint], style: str
) -> None:
    """The tokens with the fewest bytes, and of these never one with a bracket or quote that ends something."""
    constraint = constraints(chat, style)

    def dawdle(_: AnswerState, ids: np.ndarray) -> int:
        spelt = {int(token): constraint.spellings.get(int(token), b"") for token in ids}
        return min(spelt, key=lambda token: (any(byte in b'"]' for byte in spelt[token]), len(spelt[token]), token))

    for text in SENTENCES:
        for budget in (*range(constraint.reserve, constraint.reserve + 40), 300):
            tokens = write(constraint, constraint.start(text, budget), dawdle, jump=False)
            assert len(tokens) < budget
            check(text, chat.decode(tokens), style)


def test_a_pair_is_not_written_for_ever(
    small: ChatTokenizer, constraints: Callable[[ChatTokenizer, str], AnswerConstraint]
) -> None:
    constraint = constraints(small, "official")
    wanted = small.answer_ids(render_answer([Entity("哈哈", "日期")] * 100, "official"))
    state = constraint.start("哈哈哈", 10_000)
    tokens = write(constraint, state, told(wanted), jump=False)
    pairs = json.loads(small.decode(tokens))
    assert set(map(tuple, pairs)) == {("哈哈", "日期")}
    assert len(pairs) == 2 + 3 + 1  # it occurs twice; three more are let pass, and the next one is the last


def test_a_pair_that_may_not_come_again_forbids_no_other_category_of_its_span(
    small: ChatTokenizer, constraints: Callable[[ChatTokenizer, str], AnswerConstraint]
) -> None:
    """The two begin alike, so the one that has been written too often is not decided yet."""
    entities = [Entity("北京", "地点_城市")] * 4 + [Entity("北京", "地点_景点/公园")]
    constraint = constraints(small, "official")
    _accept(constraint, "去北京", [*small.answer_ids(render_answer(entities, "official")), constraint.stop])


def test_an_ending_is_spelt_in_the_longest_tokens_that_fit(
    qwen: ChatTokenizer, constraints: Callable[[ChatTokenizer, str], AnswerConstraint]
) -> None:
    trie = constraints(qwen, "official").grammar.trie
    assert trie.spell('", "地点"]]'.encode()) == qwen.answer_ids('", "地点"]]')


def test_near_the_end_no_pair_is_begun_that_would_be_cut(
    qwen: ChatTokenizer, constraints: Callable[[ChatTokenizer, str], AnswerConstraint]
) -> None:
    """A long answer that runs out of room loses whole pairs only."""
    constraint = constraints(qwen, "official")
    text = "去了北京和颐和园"
    entities = [Entity("北京", "地点_城市"), Entity("颐和园", "地点_景点/公园"), Entity("去", "日期")] * 9
    wanted = qwen.answer_ids(render_answer(entities, "official"))
    for budget in range(80, 140):
        tokens = write(constraint, constraint.start(text, budget), told(wanted), jump=False)
        pairs = [tuple(pair) for pair in json.loads(qwen.decode(tokens))]
        assert pairs == [entity[:2] for entity in entities[: len(pairs)]]
        assert len(tokens) > budget - 70


@pytest.fixture(scope="module")
def sample() -> list[Sentence]:
    """Sentences of data=sample."""
    return [
        sentence
        for split in corpus_sample.generate_sample({"train": 400, "dev": 50, "test": 50}, 42).values()
        for sentence in split
    ]


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("which", ["qwen", "built"])
def test_the_training_answer_is_never_forbidden(
    request: pytest.FixtureRequest, sample: list[Sentence], which: str, style: str
) -> None:
    categories = sorted({entity.category for sentence in sample for entity in sentence.entities})
    if which == "qwen":
        chat = request.getfixturevalue("qwen")
    else:
        prompt = Prompt("p", "1", "zh", "", "、".join(categories), "{sentence}", style, tuple(categories))
        chat = ChatTokenizer(
            random_model.build_corpus_tokenizer([sentence.text for sentence in sample], prompt, 3000), None
        )
    constraint = AnswerConstraint(chat, categories, style)
    forced, repeated = 0, 0
    for sentence in sample:
        tokens = [*chat.answer_ids(render_answer(sentence.entities, style)), constraint.stop]
        forced += _accept(constraint, sentence.text, tokens)
        pairs = [entity[:2] for entity in sentence.entities]
        repeated += len(set(pairs)) < len(pairs)
    assert forced
    assert repeated


def _accept(constraint: AnswerConstraint, text: str, tokens: list[int]) -> int:
    """Each token is allowed, and what is forced is what comes; how many were forced."""
    state = constraint.start(text, len(tokens) + constraint.reserve + 100)
    sure = forced = 0
    for at, token in enumerate(tokens):
        ahead = state.forced()
        assert tokens[at : at + len(ahead)] == ahead
        sure = max(sure, at + len(ahead))
        forced += at < sure
        assert token in state.allowed()
        state.advance(token)
    assert state.stopped
    return forced


def test_repeats_nested_and_awkward_entities_are_accepted(
    chat: ChatTokenizer, constraints: Callable[[ChatTokenizer, str], AnswerConstraint]
) -> None:
    text = '北京大学在北京，他说"好\\\n"，北京👩‍👩‍👧‍👦'
    spans = ["北京大学", "北京", "大学", "北京", '他说"好\\\n"', '"', "\\", "\n", "👩‍👩‍👧‍👦", "👩", text, "北京"]
    entities = [Entity(span, CATEGORIES[at % len(CATEGORIES)]) for at, span in enumerate(spans)]
    entities += [Entity("北京", "日期")] * 3 + [Entity("北京", name) for name in CATEGORIES]
    for style in STYLES:
        constraint = constraints(chat, style)
        _accept(constraint, text, [*chat.answer_ids(render_answer(entities, style)), constraint.stop])


def test_no_token_is_forced_before_a_span_that_may_be_split_otherwise(
    qwen: ChatTokenizer, constraints: Callable[[ChatTokenizer, str], AnswerConstraint]
) -> None:
    """The quote before a span is a token with what precedes it, but with the span if that begins with `,` or `)`."""
    constraint = constraints(qwen, "official")
    entities = [Entity("3", "日期"), Entity(",5", "日期"), Entity(")", "地点"), Entity("约", "地点")]
    tokens = [*qwen.answer_ids(render_answer(entities, "official")), constraint.stop]
    assert _accept(constraint, "约3,5元)", tokens)


def test_letters_with_marks_are_spelt_as_the_model_sees_them(
    qwen: ChatTokenizer, constraints: Callable[[ChatTokenizer, str], AnswerConstraint]
) -> None:
    text = "喝cafe\u0301在\u212b"
    constraint = constraints(qwen, "official")
    seen = unicodedata.normalize("NFC", text)
    for span, own in (("café", "cafe\u0301"), (seen, text), ("Å", "\u212b")):
        raw = render_answer([Entity(span, "日期")], "official")
        _accept(constraint, text, [*qwen.answer_ids(raw), constraint.stop])
        assert prediction_from_answer(Sentence("1", text), raw, "", "").entities[0].text == own


@pytest.mark.parametrize("style", STYLES)
def test_allowed_tokens_are_those_that_can_be_stepped_through(
    small: ChatTokenizer, constraints: Callable[[ChatTokenizer, str], AnswerConstraint], style: str
) -> None:
    """Against trying every token of the vocabulary, byte by byte, in all states that chance leads to."""
    constraint = constraints(small, style)
    for seed, text in enumerate(SENTENCES):
        state, choose = constraint.start(text, 300), by_chance(constraint, seed)
        while not state.stopped:
            allowed = state.allowed()
            if isinstance(state._state, tuple) or len(allowed) > 1:
                assert allowed.tolist() == sorted(_tried(constraint, state))
            state.advance(choose(state, allowed))


def _tried(constraint: AnswerConstraint, answer: AnswerState) -> Iterator[int]:
    if answer._end_now():
        yield answer._automaton.ending(answer._state)[0]
        return
    for token, spelling in constraint.spellings.items():
        state = answer._state
        try:
            for byte in spelling:
                state = answer._automaton.step(state, byte)
        except KeyError:
            continue
        yield token


@pytest.mark.skipif(not importlib.util.find_spec("llguidance"), reason="llguidance is not installed")
@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("which", ["qwen", "small"])
def test_llguidance_allows_the_same(
    request: pytest.FixtureRequest,
    constraints: Callable[[ChatTokenizer, str], AnswerConstraint],
    which: str,
    style: str,
) -> None:
    """The same grammar in a general engine. It narrows its masks to one way of cutting where only certain bytes can
    follow; tokens that it leaves out for that must still be valid to it."""
    chat = request.getfixturevalue(which)
    constraint, reference = constraints(chat, style), Reference(chat, CATEGORIES, style)
    equal = 0
    for seed, text in enumerate(SENTENCES):
        if not text or not unicodedata.is_normalized("NFC", text) or len(text) > 100:
            continue
        state, peer, choose = constraint.start(text, 10_000), reference.start(text), by_chance(constraint, seed)
        for _ in range(40):
            ours, theirs = state.allowed().tolist(), reference.allowed(peer)
            if state._end_now():
                break
            assert set(theirs) <= set(ours)
            equal += ours == theirs
            assert all(peer.validate_tokens([token]) == 1 for token in set(ours) - set(theirs))
            state.advance(token := choose(state, state.allowed()))
            if state.stopped:
                break
            assert peer.consume_token(token)
    assert equal > 50


def test_a_model_with_random_weights_answers_in_form(
    chat: ChatTokenizer, constraints: Callable[[ChatTokenizer, str], AnswerConstraint]
) -> None:
    torch.manual_seed(0)
    entries = len(chat.tokenizer) + 77  # models have more entries than their tokenizers
    settings = Qwen2Config(
        vocab_size=entries,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=2048,
    )
    model = Qwen2ForCausalLM(settings)
    config = small_corpus.configuration(
        "qwen2_tiny", "decoding=guided", "decoding.max_new_tokens=48", "decoding.slots=8"
    ).decoding
    texts = {str(at): text for at, text in enumerate(SENTENCES)}
    requests = [
        DecodingRequest(key, chat.prompt_ids(chats.chat_text(chat, PROMPT, text)), text) for key, text in texts.items()
    ]
    for style in STYLES:
        constraint = constraints(chat, style)
        answers = [one for some in Decoder(model, chat, [], config, constraint, 0).run(requests) for one in some]
        assert {answer.id for answer in answers} == set(texts)
        for answer in answers:
            # whole, whether the model came to its end or to the limit
            assert len(answer.tokens) <= 48
            check(texts[answer.id], answer.text, style)


def test_forbidden_logits_are_minus_infinity(
    small: ChatTokenizer, constraints: Callable[[ChatTokenizer, str], AnswerConstraint]
) -> None:
    constraint = constraints(small, "official")
    entries = len(small.tokenizer) + 100
    for dtype in (torch.float32, torch.bfloat16):
        first, stopped = constraint.start("北京", 100), constraint.start("", 100)
        write(constraint, stopped, lambda _, ids: int(ids[0]), jump=True)
        logits = torch.randn(4, entries, generator=torch.Generator().manual_seed(0)).to(dtype)
        before = logits.clone()
        constraint.mask([None, first, stopped, first], logits)
        for row in (0, 2):
            assert torch.equal(logits[row], before[row])
        for row in (1, 3):
            allowed = torch.tensor(first.allowed())
            assert torch.isfinite(logits[row]).nonzero()[:, 0].tolist() == allowed.tolist()
            assert torch.equal(logits[row, allowed], before[row, allowed])
        alone = before.clone()
        constraint.mask([first, first, first, first], alone)
        assert torch.equal(torch.isfinite(alone), torch.isfinite(logits[1]).expand_as(alone))


def test_the_stop_token_comes_once_and_only_at_the_end(
    small: ChatTokenizer, constraints: Callable[[ChatTokenizer, str], AnswerConstraint]
) -> None:
    constraint = constraints(small, "official")
    state = constraint.start("北京", 100)
    with pytest.raises(ValueError, match="stop"):
        state.advance(constraint.stop)
    with pytest.raises(ValueError, match="cannot follow"):
        state.advance(small.answer_ids("北")[0])
    for token in small.answer_ids("[]"):
        state.advance(token)
    assert state.forced() == state.allowed().tolist() == [constraint.stop] == [small.end[0]]
    state.advance(constraint.stop)
    assert state.stopped
    assert not state.forced()
    assert not state.allowed().size
    with pytest.raises(ValueError, match="stop"):
        state.advance(constraint.stop)


def test_an_answer_by_a_schema_stops_only_where_it_is_whole(small: ChatTokenizer) -> None:
    pytest.importorskip("llguidance", reason="reads schemas")
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    constraint = SchemaConstraint(small, {"问": {**schema, "additionalProperties": False}})
    with pytest.raises(ValueError, match="token"):
        constraint.start("问", 50).advance(small.end[0])
    state = constraint.start("问", 50)
    for token in small.answer_ids('{"a": 1}'):
        state.advance(token)
    state.advance(small.end[0])
    assert state.stopped
    assert state.forced() == []


def test_one_category_is_forced_as_a_whole(qwen: ChatTokenizer) -> None:
    constraint = AnswerConstraint(qwen, ["地点_城市"], "official")
    state = constraint.start("在北京", 100)
    tokens = qwen.answer_ids('[["北京", "地点_城市"]]')
    for token in tokens[:4]:
        state.advance(token)
    assert qwen.decode(tokens[:4]) == '[["北京",'
    assert state.forced() == tokens[4:8]
    assert qwen.decode(tokens[4:8]) == ' "地点_城市'


def test_tokens_that_no_text_is_split_into_have_no_bytes() -> None:
    """Of bytes as characters: what is none of them; of characters: a byte that is one with a token of its own."""
    assert byte_level_bytes({0: "Ġä", 1: "北"}) == {0: b" \xe4"}
    assert byte_fallback_bytes({0: "▁A", 1: "A", 2: "<0x41>", 3: "<0xE4>"}) == {0: b" A", 1: b"A", 3: b"\xe4"}


def test_mistakes_are_explained(
    qwen: ChatTokenizer, constraints: Callable[[ChatTokenizer, str], AnswerConstraint]
) -> None:
    constraint = constraints(qwen, "official")
    with pytest.raises(UserError, match=r"max_new_tokens.*Raise it"):
        constraint.start("北京", constraint.reserve - 1)
    with pytest.raises(UserError, match="no categories"):
        AnswerConstraint(qwen, [], "official")
    with pytest.raises(UserError, match=r"prompt\.answer"):
        AnswerConstraint(qwen, CATEGORIES, "pretty")
    without = {token: spelling for token, spelling in constraint.spellings.items() if spelling != b"\xe4"}
    with pytest.raises(UserError, match="0xe4"):
        TokenTrie(without)


@pytest.mark.parametrize(("budget", "why"), [(400, "loop"), (60, "limit")])
def test_an_answer_that_was_ended_says_why(
    chat: ChatTokenizer,
    constraints: Callable[[ChatTokenizer, str], AnswerConstraint],
    budget: int,
    why: str,
) -> None:
    constraint, category = constraints(chat, "official"), CATEGORIES[0]
    text = "去喝小满" if why == "loop" else "去喝小满" * 50
    tokens = chat.answer_ids(json.dumps([["小满", category]] * 60, ensure_ascii=False))
    budget = budget if why == "loop" else constraint.reserve + budget
    state = constraint.start(text, budget)
    pairs = json.loads(chat.decode(write(constraint, state, told(tokens), jump=False)))
    assert state.ended == why
    assert 0 < len(pairs) < 60
    whole = constraint.start("去喝小满", 400)
    one = chat.answer_ids(json.dumps([["小满", category]], ensure_ascii=False))
    write(constraint, whole, told([*one, constraint.stop]), jump=False)
    assert whole.ended == ""
