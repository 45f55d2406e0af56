"""The confidence in each item of an answer, and predictions with and without it."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest
import small_corpus

from omniner import models
from omniner.answers import prediction_from_answer
from omniner.llm import prompts
from omniner.llm.decoding.decoder import Answer
from omniner.llm.decoding.hf_engine import score_items
from omniner.records import Prediction, Sentence

# peft 0.21 asks transformers 5.23 for a property by its old name
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")


class ByteChat:
    """A byte per token, so that a character has several."""

    def decode(self, ids: list[int]) -> str:
        return bytes(ids).decode("utf-8", "replace")


CHAT: Any = ByteChat()


def answer_of(text: str) -> Answer:
    chance = random.Random(0)
    tokens = list(text.encode())
    return Answer("s", tokens, text, "model", [-chance.random() / 9 for _ in tokens])


def probability(answer: Answer, after: str, up_to: str) -> float:
    """The product over the bytes of the text between two beginnings of it."""
    begin, end = len(after.encode()), len(up_to.encode())
    return math.exp(sum(answer.log_probabilities[begin:end]))


def test_an_item_is_scored_by_its_own_tokens() -> None:
    first, second = '[["北京🍜", "地点', '"], ["王\\"芳", "人名'
    answer = answer_of(f'{first}{second}"]]')
    want = [probability(answer, "", first), probability(answer, first, first + second)]
    assert score_items(CHAT, answer) == pytest.approx(want)
    assert math.prod(want) * probability(answer, first + second, answer.text) == pytest.approx(
        math.exp(sum(answer.log_probabilities))
    )
    assert score_items(CHAT, answer._replace(log_probabilities=())) == []


@pytest.mark.parametrize(
    ("text", "scored"),
    [
        ('[["北京", "地点"], ["王芳", "人名"]]', [True, True]),
        ('[["北京", "地点"], ["王芳", "人', [True]),  # cut off: the last one is incomplete
        ('[["北京", "地点"], ["王芳", "人名"]', [True, True]),
        ("[]", []),
        ('答案：[["北京", "地点"]]', [False]),
        ('[["北京", "地点"], {"text": "王芳", "label": "人名"}]', [False, False]),  # in no form that was asked for
        ('[["地点", "北京"]]', [False]),  # the category first
    ],
)
def test_entities_have_scores_if_the_answer_is_in_the_requested_form(text: str, scored: list[bool]) -> None:
    answer = answer_of(text)
    made = prediction_from_answer(
        Sentence("s", "北京的王芳"), text, "", "hf", categories=("地点", "人名"), scores=score_items(CHAT, answer)
    )
    assert [entity.score is not None for entity in made.entities] == scored


def test_a_repeated_entity_takes_no_other_ones_score() -> None:
    answer = answer_of('[["北京", "地点"], ["北京", "地点"], ["王芳", "人名"]]')
    made = prediction_from_answer(Sentence("s", "北京的王芳"), answer.text, "", "hf", scores=[0.5, 0.25, 0.75])
    assert [(entity.text, entity.score) for entity in made.entities] == [("北京", 0.5), ("王芳", 0.75)]


@pytest.mark.parametrize("kind", ["guided", "free"])
def test_the_same_is_predicted_with_scores_whatever_is_decoded_beside_it(kind: str) -> None:
    corpus = small_corpus.corpus(30, 4)

    def predicted(*overrides: str) -> dict[str, Prediction]:
        config = small_corpus.configuration("qwen2_tiny", f"decoding={kind}", "decoding.max_new_tokens=60", *overrides)
        prompt = prompts.build_prompt(config.prompt, corpus.active, corpus.splits["train"], {})
        model = models.load_untrained(config, prompt, [one.text for one in corpus.splits["train"]])
        return {one.id: one for batch in model.predict(corpus.splits["test"][:8]) for one in batch}

    bare = predicted()
    one, many = (predicted("decoding.scores=true", f"decoding.slots={slots}") for slots in (1, 8))
    assert one == many == bare
    assert all(entity.score is None for each in bare.values() for entity in each.entities)
    scores = [[entity.score for name in bare for entity in found[name].entities] for found in (one, many)]
    if kind == "guided":  # random weights write no list of their own accord
        assert len(scores[0]) > 8
        assert None not in scores[0]
    assert scores[0] == pytest.approx(scores[1], abs=2e-4)
    least = sorted(score or 0 for score in scores[1])[len(scores[1]) // 2] if kind == "guided" else 0.5
    sure = predicted(f"decoding.min_score={least}", "decoding.slots=8")
    assert [(one.entities, one.raw) for one in sure.values()] == [
        ([entity for entity in many[name].entities if (entity.score or 0) >= least], many[name].raw) for name in sure
    ]
