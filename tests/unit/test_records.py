from __future__ import annotations

import copy
import json
import pickle
import random

import numpy as np

from omniner.errors import UserError
from omniner.records import (
    Entity,
    Issue,
    Prediction,
    Sentence,
    content_digest,
    entity_to_json,
    mark_entities,
    post_key,
    post_or_text,
    prediction_to_json,
    ranked,
    sentence_to_json,
    to_line,
    with_score,
    without_unsure,
)


def test_optional_fields_are_left_out() -> None:
    sentence = Sentence("1", "喝小满", [Entity("小满", "品牌", 1, 3), Entity("喝", "行为_其他")])
    assert sentence_to_json(sentence) == {
        "id": "1",
        "text": "喝小满",
        "entities": [
            {"text": "小满", "category": "品牌", "start": 1, "end": 3},
            {"text": "喝", "category": "行为_其他"},
        ],
    }
    assert prediction_to_json(Prediction("1")) == {"id": "1", "entities": [], "parse": "ok"}


def test_lines_are_readable_and_always_utf8() -> None:
    assert to_line({"a": "实体"}) == '{"a": "实体"}'
    lone = to_line({"a": "\ud83d"})
    assert json.loads(lone.encode("utf-8")) == {"a": "\ud83d"}


def test_posts_are_named_with_or_without_an_id() -> None:
    for post_id in (None, ""):
        sentence = Sentence("7", "好", post_id=post_id)
        assert (post_key(sentence), post_or_text(sentence)) == ((False, "7"), "text 好")
    sentence = Sentence("7", "好", post_id="7")
    assert (post_key(sentence), post_or_text(sentence)) == ((True, "7"), "post 7")


def test_counts_are_ranked_whatever_order_they_were_met_in() -> None:
    assert ranked({"b": 1, "a": 1, "c": 2}) == ranked({"c": 2, "a": 1, "b": 1}) == [("c", 2), ("a", 1), ("b", 1)]


def test_the_largest_counts_are_the_first_of_all() -> None:
    chance = random.Random(0)
    counts = {name: chance.randint(1, 5) for name in chance.sample("abcdefghijklmnopqrst", 20)}
    for top in (0, 1, 7, 20, 30):
        assert ranked(counts, top) == ranked(counts)[:top]


def test_an_issue_reads_as_one_line_with_its_place() -> None:
    assert str(Issue("bad-json", "broken", file="a.jsonl", line=3)) == "a.jsonl:3 [bad-json] broken"
    assert str(Issue("no-gold", "unreadable", id="s1")) == "s1 [no-gold] unreadable"


def test_a_user_error_survives_the_way_between_processes() -> None:
    error = pickle.loads(pickle.dumps(UserError("data.root", "absent", "Set it.")))
    assert str(error) == "data.root: absent. Set it."


def test_entities_are_marked_in_their_places_and_those_without_one_follow() -> None:
    text = "去喝小满的茶"
    brand, tea, part = Entity("小满", "品牌", 2, 4), Entity("茶", "饮品", 5, 6), Entity("满", "字", 3, 4)
    assert mark_entities(text, []) == text
    assert mark_entities(text, [tea, brand]) == "去喝[小满|品牌]的[茶|饮品]"
    assert mark_entities(text, [part, brand, Entity("奶", "饮品")]) == "去喝[小满|品牌]的茶 +[满|字] +[奶|饮品]"
    assert mark_entities(text, [brand], "<{category}:{text}>") == "去喝<品牌:小满>的茶"


def test_a_confidence_belongs_to_no_entity_but_is_written_copied_and_shown() -> None:
    bare = Entity("小满", "品牌", 1, 3)
    sure = with_score(bare, 0.987654)
    assert (bare.score, sure.score) == (None, 0.9877)
    assert sure == bare
    assert {sure} == {bare}
    assert entity_to_json(sure) == {"text": "小满", "category": "品牌", "start": 1, "end": 3, "score": 0.9877}
    for copied in (pickle.loads(pickle.dumps(sure)), copy.deepcopy(sure), sure._replace(text="满")):
        assert copied.score == 0.9877
    assert repr(sure).endswith("start=1, end=3, score=0.9877)")
    assert sure._asdict() == {"text": "小满", "category": "品牌", "start": 1, "end": 3, "score": 0.9877}
    assert repr(with_score(bare, np.float32(0.987654)).score) == "0.9877"
    for odd in (None, True, "0.5", -0.1, 1.5, float("nan"), np.float32("nan"), 10**400):
        assert with_score(bare, odd) is bare


def test_what_a_model_is_not_sure_of_is_left_out_and_counted() -> None:
    found = [with_score(Entity(str(score), "x", 0, 1), score) for score in (0.25, 0.5, 0.75, None)]
    given = Prediction("1", found, reason="repaired")
    all_of_them = [0.25, 0.5, 0.75, None]
    for least, kept in (
        (None, all_of_them),
        (0.0, all_of_them),
        (0.25, [0.25, 0.5, 0.75]),
        (0.5, [0.5, 0.75]),
        (1, []),
    ):
        left = without_unsure(given, least)
        assert [one.score for one in left.entities] == kept
        assert left.left_out == 4 - len(kept)
    assert without_unsure(given, None) is given
    assert without_unsure(without_unsure(given, 0.5), 0.75).left_out == 3, "in two steps"


def test_equal_sentences_have_one_digest_whatever_a_model_thinks_of_them() -> None:
    bare, sure = (Sentence("1", "喝茶", [with_score(Entity("茶", "饮品", 1, 2), score)]) for score in (None, 0.5))
    assert content_digest([bare]) == content_digest([sure])
    assert sure.entities[0].score == 0.5
