"""The generated corpus: exact, the same for a seed, rich and hard enough to be worth training on."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from importlib import resources
from itertools import pairwise

import pytest

from omniner.corpus import sample, taxonomy
from omniner.corpus.sample import generate_sample
from omniner.errors import UserError
from omniner.records import Entity, Sentence, sentence_to_json, to_line

SIZE = {"train": 2000, "dev": 300, "test": 500}
Corpus = dict[str, list[Sentence]]


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return generate_sample(SIZE, 13)


@pytest.fixture(scope="module")
def large() -> Corpus:
    return generate_sample({"train": 20_000, "test": 2_000}, 5)


def everything(corpus: Corpus) -> Iterator[Sentence]:
    for sentences in corpus.values():
        yield from sentences


def digest(corpus: Corpus) -> str:
    lines = "\n".join(to_line(sentence_to_json(sentence)) for sentence in everything(corpus))
    return hashlib.sha256(lines.encode()).hexdigest()


def restored(sentence: Sentence) -> list[Entity]:
    """The mentions as they were before the noise, as far as `meta` tells: without the disturbed one."""
    truth = sentence.meta["noise"]["truth"]
    return [e for e in sentence.entities if e.end <= truth["start"] or e.start >= truth["end"]]  # type: ignore[operator]


# --- shape of the result


def test_each_split_has_exactly_the_sentences_asked_for(corpus: Corpus) -> None:
    assert {split: len(sentences) for split, sentences in corpus.items()} == SIZE
    assert generate_sample({}, 1) == {}
    assert generate_sample({"test": 0}, 1) == {"test": []}
    assert len(generate_sample({"train": 1}, 1)["train"]) == 1


def test_ids_are_numbered_and_unique(corpus: Corpus) -> None:
    assert [s.id for s in corpus["train"][:2]] == ["train-000001", "train-000002"]
    ids = [s.id for s in everything(corpus)]
    assert len(set(ids)) == len(ids)


def test_posts_stay_together_and_in_one_split(corpus: Corpus) -> None:
    splits = defaultdict(set)
    for split, sentences in corpus.items():
        posts = [s.post_id for s in sentences]
        changes = 1 + sum(a != b for a, b in pairwise(posts))
        assert changes == len(set(posts)), "the sentences of a post do not stand together"
        assert set(Counter(posts[:-5]).values()) == {1, 2, 3, 4, 5}
        for post in posts:
            splits[post].add(split)
    assert all(post and len(where) == 1 for post, where in splits.items())


def test_offsets_are_exact_sorted_and_do_not_overlap(corpus: Corpus) -> None:
    for sentence in everything(corpus):
        end = 0
        for entity in sentence.entities:
            assert entity.start is not None
            assert entity.end is not None
            assert end <= entity.start < entity.end <= len(sentence.text)
            assert sentence.text[entity.start : entity.end] == entity.text
            assert entity.text == entity.text.strip()
            end = entity.end


def test_a_negative_size_is_a_user_error() -> None:
    with pytest.raises(UserError, match=r"data\.size\.dev: -1 sentences"):
        generate_sample({"train": 3, "dev": -1}, 1)


# --- determinism


def test_another_seed_gives_other_sentences(corpus: Corpus) -> None:
    assert digest(generate_sample(SIZE, 13)) == digest(corpus)
    other = {s.text for s in everything(generate_sample(SIZE, 14))}
    same = sum(s.text in other for s in everything(corpus))
    assert same < 0.02 * len(other)


def test_more_sentences_keep_the_first_ones(corpus: Corpus) -> None:
    more = generate_sample({"train": 2500, "extra": 7}, 13)
    assert more["train"][:2000] == corpus["train"]
    assert generate_sample({"test": 500}, 13)["test"] == corpus["test"]


@pytest.mark.parametrize("hash_seed", ["0", "4242"])
def test_the_bytes_do_not_depend_on_the_hash_seed(corpus: Corpus, hash_seed: str) -> None:
    code = (
        "import sys, json; from omniner.corpus.sample import generate_sample;"
        "from omniner.records import sentence_to_json, to_line; import hashlib;"
        "c = generate_sample(json.loads(sys.argv[1]), 13);"
        "t = '\\n'.join(to_line(sentence_to_json(s)) for v in c.values() for s in v);"
        "print(hashlib.sha256(t.encode()).hexdigest())"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, json.dumps(SIZE)],
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout.strip() == digest(corpus)


# --- content


@pytest.mark.parametrize("seed", [1, 13, 2025])
def test_train_of_the_default_size_has_all_90_categories_several_times(seed: int) -> None:
    counts = Counter(e.category for s in generate_sample({"train": 2000}, seed)["train"] for e in s.entities)
    assert set(counts) == set(taxonomy.load_taxonomy("omniner2025").categories)
    assert min(counts.values()) >= 5


def test_categories_have_a_long_tail(corpus: Corpus) -> None:
    counts = [n for _, n in Counter(e.category for s in corpus["train"] for e in s.entities).most_common()]
    assert counts[0] > 5 * counts[20] > 15 * counts[-1]


def test_lengths_and_densities_are_those_of_short_posts(corpus: Corpus) -> None:
    train = corpus["train"]
    lengths = [len(s.text) for s in train]
    assert 22 < sum(lengths) / len(train) < 34
    assert min(lengths) < 12
    assert max(lengths) > 60
    assert 4 < sum(len(s.entities) for s in train) / len(train) < 5.5
    assert 0.07 < sum(not s.entities for s in train) / len(train) < 0.12


def test_surfaces_are_many_and_test_has_unseen_ones(corpus: Corpus) -> None:
    seen = {e.text for s in corpus["train"] for e in s.entities}
    tested = [e.text for s in corpus["test"] for e in s.entities]
    unseen = sum(text not in seen for text in tested) / len(tested)
    assert len(seen) > 3000
    assert 0.15 < unseen < 0.45


def test_sentences_are_mostly_distinct(large: Corpus) -> None:
    texts = {s.text for s in large["train"]}
    assert len(texts) > 0.995 * len(large["train"])
    assert sum(s.text in texts for s in large["test"]) < 0.01 * len(large["test"])


def test_the_same_surface_takes_several_categories(corpus: Corpus, large: Corpus) -> None:
    def categories(sentences: list[Sentence]) -> dict[str, set[str]]:
        found = defaultdict(set)
        for sentence in sentences:
            for entity in [] if sentence.meta else sentence.entities:
                found[entity.text].add(entity.category)
        return found

    assert sum(len(found) > 1 for found in categories(corpus["train"]).values()) > 100
    found = categories(large["train"])
    assert {"品牌", "品类_品种", "品类_产品"} & found["柚子"] == {"品牌", "品类_品种"}
    assert found["小满"] >= {"品牌", "时间_节假日"}
    assert found["露营"] >= {"行为_活动", "场景_娱乐场景"}
    assert found["杭州"] >= {"aoi_其他", "aoi_产地"}
    assert found["林一舟"] >= {"特定人物_明星名人", "特定人物_主播网红"}


def test_the_same_surface_is_a_mention_here_and_not_there(corpus: Corpus) -> None:
    mentions = {e.text for s in corpus["train"] for e in s.entities}
    silent = [s for s in corpus["train"] if not s.entities and not s.meta]
    assert any(text in s.text for s in silent for text in mentions if len(text) > 1)


def test_adjacent_and_repeated_mentions_exist(corpus: Corpus) -> None:
    train = corpus["train"]
    adjacent = sum(any(a.end == b.start for a, b in pairwise(s.entities)) for s in train)
    repeated = sum(len({(e.text, e.category) for e in s.entities}) < len(s.entities) for s in train)
    assert 0.3 < adjacent / len(train) < 0.7
    assert 0.05 < repeated / len(train) < 0.25
    assert not any(a[:2] == b[:2] and a.end == b.start for s in train for a, b in pairwise(s.entities))


def test_compounds_are_one_mention_here_and_two_there(large: Corpus) -> None:
    clean = [s.entities for s in large["train"] if not s.meta]
    whole = {entity.text for entities in clean for entity in entities}
    parted = {a.text + b.text for entities in clean for a, b in pairwise(entities) if a.end == b.start}
    assert len(whole & parted) > 20


def test_posts_carry_emoji_tags_latin_digits_and_hashtags(corpus: Corpus) -> None:
    text = "\n".join(s.text for s in corpus["train"])
    assert text.count("R]") > 100
    assert text.count("#") > 100
    assert sum(c.isascii() and c.isalpha() for c in text) > 1000
    assert sum(c.isdigit() for c in text) > 1000
    assert "🥹" in text


def test_no_markup_of_the_grammar_is_left_in_the_text(large: Corpus) -> None:
    assert not [s.text for s in large["train"] if set(s.text) & set("{}<>|()_@*")]


# --- noise


def test_the_share_of_noise_is_as_documented() -> None:
    sentences = generate_sample({"train": 20_000}, 3)["train"]
    noisy = [s for s in sentences if s.meta]
    share = len(noisy) / sum(len(s.entities) for s in sentences)
    assert 0.8 * sample.NOISE < share < 1.2 * sample.NOISE
    assert set(Counter(s.meta["noise"]["kind"] for s in noisy)) == {"missed", "boundary", "category"}


def test_noise_tells_the_mention_as_it_should_be() -> None:
    for sentence in generate_sample({"train": 5_000}, 3)["train"]:
        if not sentence.meta:
            continue
        kind, truth = sentence.meta["noise"]["kind"], sentence.meta["noise"]["truth"]
        assert sentence.text[truth["start"] : truth["end"]] == truth["text"]
        changed = [e for e in sentence.entities if e not in restored(sentence)]
        assert len(changed) == (0 if kind == "missed" else 1)
        for entity in changed:
            assert (entity.category != truth["category"]) == (kind == "category")
            assert (entity.text != truth["text"]) == (kind == "boundary")


# --- the topics as written


def test_every_list_is_used_and_its_category_is_official() -> None:
    loaded = sample.load_grammar()
    official = taxonomy.load_taxonomy("omniner2025")
    assert {c for c in loaded.categories.values() if c} == set(official.categories)
    patterns = [p for t in loaded.topics for p in (*t.clauses, *t.tags)] + list(loaded.chat)
    assert all(s.category is None or s.category in official for p in patterns for s in p)
    assert sum(len(set(topic.clauses)) for topic in loaded.topics) >= 120
    assert all(topic.weight > 0 and topic.tags for topic in loaded.topics)
    assert not any(slot.category for pattern in loaded.chat for slot in pattern)


def test_no_mention_is_empty_and_categories_have_many_surfaces() -> None:
    loaded = sample.load_grammar()
    surfaces = defaultdict(set)
    for name, category in loaded.categories.items():
        if category:
            assert all(word and word == word.strip() for word in loaded.words[name]), name
            surfaces[category].update(loaded.words[name])
    assert min(map(len, surfaces.values())) >= 25
    assert sorted(map(len, surfaces.values()))[45] >= 60


def test_a_slot_in_a_clause_is_a_mention_unless_marked() -> None:
    loaded = sample.load_grammar()
    for entry in resources.files("omniner.corpus").joinpath("topics").iterdir():
        clauses = entry.read_text("utf-8").split("== chat")[0]
        for name in re.findall(r"\{([^{}:@!]+)@?\}", clauses):
            assert loaded.categories[name] is not None, f"{entry.name}: {{{name}}}"


# --- the format of the topics

SMALL = """// a topic
[物 品类_产品]
杯子 <大小一>碗 Old_Cup
[大小一]
大 小
[味]
() 甜
== weight 2
== clauses
*2 (买|卖){物@}和{物@}，{味}{物!}
{物:品牌}家的{物}
== tags
#{物}
"""


def test_the_format_compiles_as_documented() -> None:
    loaded = sample.compile_grammar({"small": SMALL})
    (topic,) = loaded.topics
    assert (topic.name, topic.weight, len(topic.clauses)) == ("small", 2, 3)
    assert loaded.words["物"][0] == "杯子"
    assert set(loaded.words["物"]) == {"杯子", "大碗", "小碗", "Old Cup"}
    assert loaded.words["味"] == ("", "甜")
    wording, first, second, taste, silent = topic.clauses[0]
    assert topic.clauses[0] == topic.clauses[1]
    assert wording == ("", ("买", "卖"), None, None)
    assert first[0] == ""
    assert (second.literal, second.category, second.key) == ("和", "品类_产品", "物")
    assert (taste.literal, taste.category, silent.category, silent.key) == ("，", None, None, None)
    assert topic.clauses[2][0].category == "品牌"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[甲]\n一\n[甲]\n二\n", "bad:3: the list 甲 is already there"),
        ("面霜\n", "bad:1: '面霜' belongs to no list"),
        ("[甲]\n<乙>\n", "the list '乙' is not there"),
        ("[甲]\n<甲>\n", "the list '甲' is its own part"),
        ("[甲]\n一\n== clauses\n(好|{甲})\n", "bad: a bracket in"),
        ("== clauses\n好(的\n", "bad: a bracket in"),
        ("== clauses\n{甲}好\n", "bad: the list '甲' in '{甲}好' is not there"),
    ],
)
def test_a_mistake_in_a_topic_is_named(text: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        sample.compile_grammar({"bad": text})
