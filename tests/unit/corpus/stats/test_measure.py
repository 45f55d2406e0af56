"""The public corpora: our statistics against the counts and facts that are known of them, split by split."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from omniner.config import compose
from omniner.corpus.stats import texts as stats_texts
from omniner.corpus.stats.measure import Statistics, measure_corpus
from omniner.tasks import stats

CORPORA = ("cluener", "weibo", "weibo_first", "resume", "cmeee", "wnut17")
# Entities that are counted there but are none to us: their end stands before their start.
EMPTY = {("cmeee", "train"): {"pro": 1, "mic": 1}}


@pytest.fixture(scope="module")
def measured(shared: Path) -> Iterator[dict[str, Statistics]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMNINER_DATA", str(shared / "data"))
        config = compose.load(["task=stats", f"corpora=[{','.join(CORPORA)}]"])
        found = {}
        for planned in stats.find_corpora(config):
            material = planned.read()
            found[material.name] = measure_corpus(material.name, material.splits, config.stats)
        yield found


def number(cell: str) -> int:
    return int(re.sub(r"[,*≠ ]", "", cell))


def known_splits(readme: str) -> Iterator[tuple[str, str, int, int | None, int | None]]:
    """`(corpus, split, sentences, entities, types)` of each file that the table of its corpus counts."""
    for line in readme.splitlines():
        cells = [cell.strip() for cell in line.strip("| ").split("|")]
        if len(cells) < 5 or cells[0] not in ("train", "dev", "test") or "`" not in cells[1]:
            continue
        path = cells[1].strip("`")
        if path.endswith(("CMeEE_dev.json", "CMeEE_test.json")):
            continue  # the same sentences in another format
        corpus = path.partition("/")[0]
        corpus = "weibo_first" if "weiboNER.conll" in path else corpus
        if cells[4] == "no labels":
            yield corpus, "unlabeled", number(cells[3]), None, None
        else:
            yield corpus, cells[0], number(cells[3]), number(cells[4]), number(cells[5])


def test_sentences_entities_and_categories_of_every_split(measured: dict[str, Statistics], shared: Path) -> None:
    rows = list(known_splits((shared / "data" / "README.md").read_text(encoding="utf-8")))
    assert len(rows) == sum(len(statistics.flat.splits) for statistics in measured.values()) == 18
    for corpus, split, sentences, entities, types in rows:
        statistics = measured[corpus]
        labels = statistics.labels[split]
        assert statistics.texts[split].sentences == sentences, (corpus, split)
        assert statistics.flat.labeled[statistics.flat.split == statistics.flat.splits.index(split)].any() == (
            entities is not None
        )
        expected = (entities or 0) - sum(EMPTY.get((corpus, split), {}).values())
        assert (labels.entities, labels.placed) == (expected, expected), (corpus, split)
        assert labels.categories == (types or 0), (corpus, split)


def known_types(readme: str) -> Iterator[tuple[str, str, dict[str, int]]]:
    """`(corpus, split, mentions by category)` of the tables of types."""
    for table in re.findall(r"^\| type \|.*?(?=\n\n)", readme, re.MULTILINE | re.DOTALL):
        head, _, *lines = ([cell.strip() for cell in line.strip("| ").split("|")] for line in table.splitlines())
        for place, file in enumerate(head[1:], 1):
            split = next(split for split in ("train", "dev", "val", "test") if split in file)
            categories = {line[0] for line in lines}
            names = {"address": "cluener", "GPE.NAM": "weibo", "CONT": "resume", "bod": "cmeee", "person": "wnut17"}
            corpus = next(name for category, name in names.items() if category in categories)
            yield corpus, "dev" if split == "val" else split, {line[0]: number(line[place]) for line in lines}


def test_mentions_of_every_category_in_every_split(measured: dict[str, Statistics], shared: Path) -> None:
    tables = list(known_types((shared / "data" / "README.md").read_text(encoding="utf-8")))
    assert len(tables) == 13
    for corpus, split, expected in tables:
        place = measured[corpus].flat.splits.index(split)
        found = {row.name: row.by_split[place] for row in measured[corpus].categories}
        for category, count in EMPTY.get((corpus, split), {}).items():
            expected[category] -= count
        assert found == expected, (corpus, split)


def test_what_is_known_of_repeats_and_leaks(measured: dict[str, Statistics]) -> None:
    repeated = {name: stats_texts.count_repeated(one.counts).tolist() for name, one in measured.items()}
    assert repeated["cluener"] == [0, 0, 0]
    assert repeated["weibo"] == [101, 7, 8]
    assert repeated["resume"] == [18, 0, 1]
    assert repeated["cmeee"] == [43, 0, 2]

    def texts(corpus: str, one: str, other: str) -> int:
        splits = measured[corpus].flat.splits
        return stats_texts.count_shared(measured[corpus].counts, splits.index(one), splits.index(other))[1]

    assert (texts("weibo", "dev", "train"), texts("weibo", "test", "train"), texts("weibo", "test", "dev")) == (
        40,
        38,
        8,
    )
    assert (texts("resume", "test", "train"), texts("resume", "dev", "train"), texts("resume", "test", "dev")) == (
        4,
        1,
        1,
    )
    assert texts("cmeee", "unlabeled", "train") == 1


def test_what_is_known_of_spans(measured: dict[str, Statistics]) -> None:
    assert [labels.involved for labels in measured["cluener"].labels.values()] == [3, 0, 0]
    statistics = measured["cmeee"]
    flat = statistics.flat
    same: Counter[str] = Counter()
    pairs: Counter[tuple[str, str]] = Counter()
    seen = set()
    for kind, outer, inner in statistics.overlaps:
        split = flat.splits[flat.split[flat.owner[outer]]]
        same[split] += kind == "same place"
        places = tuple((int(flat.start[m]), int(flat.end[m])) for m in (outer, inner))
        if kind != "same place" and (flat.owner[outer], places) not in seen:
            pairs[split, kind] += 1
            seen.add((flat.owner[outer], places))
    assert same == {"train": 33, "dev": 16}
    # Known are pairs of places; two categories at one place make one pair there and two here.
    assert pairs == {("train", "nested"): 3643, ("dev", "nested"): 1207, ("train", "crossing"): 2}


def test_what_is_known_of_texts(measured: dict[str, Statistics]) -> None:
    assert [one.beyond_plane for one in measured["wnut17"].texts.values()] == [0, 123, 47]
    assert sum(one.emoji for one in measured["cluener"].texts.values()) == 0
    assert measured["cluener"].flat.length.max() == 50
    assert [measured["weibo"].labels[split].bare for split in ("train", "dev", "test")] == [612, 123, 107]
    assert measured["wnut17"].labels["train"].bare == 2166
    assert [measured["cmeee"].texts[split].longest for split in ("train", "dev")] == [4870, 2078]
    (mark,) = measured["cmeee"].odd
    assert (mark.point, mark.times, mark.sentences) == (0xFEFF, 70, 70)
    tokens = {name: one.spaced for name, one in measured.items()}
    assert tokens == {name: name == "wnut17" for name in CORPORA}
