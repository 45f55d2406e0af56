"""The reader of answers beside a slow, obvious one that shares no code with it: the same pairs in every form."""

from __future__ import annotations

import json

import answer_forms
import pytest
import slow_answers
from hypothesis import given, settings
from hypothesis import strategies as st

from omniner.answers import parse_answer

CATEGORIES = ("人名", "地点_城市", "地点", "品牌", "PER")
SURFACES = ("北京", "北京大学", "王芳", "小满", "Nanci", "2024年", "iPhone 15", "A·B", "北")
SENTENCE = "，".join(SURFACES)
FORMS = answer_forms.CERTAIN | answer_forms.HINTED

pair_sets = st.lists(
    st.tuples(st.sampled_from(SURFACES), st.sampled_from(CATEGORIES)), min_size=1, max_size=5, unique_by=lambda p: p[0]
)
# What a model may write around its answer; none of it is the answer.
BEFORE = (
    "",
    "好的，我来找。\n",
    "注意 [1]：\n",
    "<think>也许是 {draft}？不对。</think>\n",
    "草稿：{draft}\n\n再看一遍，最终答案：\n",
    "<think>先看第一句</think><think>{draft}</think>",
)
BEHIND = ("", "\n", "\n以上是全部实体。", "<|im_end|>\n<|im_start|>user\n下一句：{draft}")
# Forms that are several lines or have marks of their own: text before them is a line of theirs, or hides their marks.
ALONE = {"harmony", "think", "thought twice", "only the closing tag", "think, then a fence", "answer tags", "turn end"}
# A list in prose anywhere counts before these.
WEAK = {"bullets", "numbered, category first", "parentheses", "tags", "table", "escaped once too often"}


def both(text: str) -> tuple[set[answer_forms.Pair], set[answer_forms.Pair]]:
    """What the reader finds, and what its twin finds."""
    ours = parse_answer(text, CATEGORIES, SENTENCE)
    return set(ours.pairs), set(slow_answers.read(text, SENTENCE, CATEGORIES))


@pytest.mark.parametrize("name", FORMS)
@settings(max_examples=15, deadline=None)
@given(pairs=pair_sets)
def test_every_form_is_read_alike(name: str, pairs: list[answer_forms.Pair]) -> None:
    text = FORMS[name](pairs)
    assert both(text) == (set(pairs), set(pairs)), text


@settings(max_examples=200, deadline=None)
@given(
    pairs=pair_sets,
    draft=pair_sets,
    name=st.sampled_from(sorted(FORMS.keys() - ALONE)),
    before=st.sampled_from(BEFORE),
    behind=st.sampled_from(BEHIND),
)
def test_mixtures_are_read_alike(
    pairs: list[answer_forms.Pair], draft: list[answer_forms.Pair], name: str, before: str, behind: str
) -> None:
    if name in WEAK and not before.startswith("<think>"):
        before = before.replace("{draft}", "[1]")
    said = json.dumps([list(pair) for pair in draft], ensure_ascii=False)
    text = before.replace("{draft}", said) + FORMS[name](pairs) + behind.replace("{draft}", said)
    ours, slow = both(text)
    assert ours == slow == set(pairs), text
