"""Every public file gives exactly the sentences, entities and types that are known of it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import NamedTuple

import pytest
from tests.helpers.reading import assert_offsets_hold, codes, read

from omniner import records
from omniner.corpus import formats


class Known(NamedTuple):
    file: str
    format: str
    sentences: int
    entities: int
    types: dict[str, int] | None = None
    issues: dict[str, int] = {}  # noqa: RUF012
    glued: bool = False
    joiner: str = ""
    unlabeled: bool = False


CLUENER = ["address", "book", "company", "game", "government", "movie", "name", "organization", "position", "scene"]
WEIBO = ["GPE.NAM", "GPE.NOM", "LOC.NAM", "LOC.NOM", "ORG.NAM", "ORG.NOM", "PER.NAM", "PER.NOM"]
RESUME = ["CONT", "EDU", "LOC", "NAME", "ORG", "PRO", "RACE", "TITLE"]
CMEEE = ["bod", "dep", "dis", "dru", "equ", "ite", "mic", "pro", "sym"]
WNUT = ["corporation", "creative-work", "group", "location", "person", "product"]


def types(names: list[str], *counts: int) -> dict[str, int]:
    return dict(zip(names, counts, strict=True))


CMEEE_DEV = types(CMEEE, 5883, 110, 4935, 1440, 238, 923, 584, 2057, 4130)
# The table of types counts the two empty entities of train (a pro and a mic); they are issues here.
CMEEE_TRAIN = types(CMEEE, 17697, 348, 15843, 3930, 888, 2581, 1908 - 1, 6332 - 1, 12269)

FILES = [
    Known(
        "cluener/train.json",
        "cluener",
        10748,
        23971,
        types(CLUENER, 2891, 1139, 2980, 2376, 1835, 1123, 3755, 3210, 3141, 1521),
    ),
    Known("cluener/dev.json", "cluener", 1343, 3072, types(CLUENER, 373, 154, 378, 295, 247, 151, 465, 367, 433, 209)),
    Known("cluener/test.json", "cluener", 1345, 0, unlabeled=True),
    Known("cluener/cluener_predict.json", "cluener", 0, 0, {}, {"bad-record": 4, "bad-json": 3}),
    Known(
        "weibo/weiboNER_2nd_conll.train",
        "conll",
        1350,
        1895,
        types(WEIBO, 205, 8, 56, 51, 183, 42, 578, 772),
        {"orphan-inside": 10, "lost-emoji": 6},
        glued=True,
    ),
    Known(
        "weibo/weiboNER_2nd_conll.dev",
        "conll",
        270,
        389,
        types(WEIBO, 26, 1, 6, 6, 47, 5, 90, 208),
        {"lost-emoji": 8},
        glued=True,
    ),
    Known(
        "weibo/weiboNER_2nd_conll.test",
        "conll",
        270,
        418,
        types(WEIBO, 47, 2, 19, 9, 39, 17, 113, 172),
        {"orphan-inside": 4, "lost-emoji": 8},
        glued=True,
    ),
    Known("weibo/weiboNER.conll.train", "conll", 1350, 1391, None, {"orphan-inside": 21, "split-emoji": 6}),
    Known("weibo/weiboNER.conll.dev", "conll", 270, 305, None, {"orphan-inside": 4, "split-emoji": 8}),
    Known("weibo/weiboNER.conll.test", "conll", 270, 320, None, {"orphan-inside": 10, "split-emoji": 8}),
    Known(
        "resume/train.char.bmes",
        "conll",
        3821,
        13440,
        types(RESUME, 260, 858, 47, 952, 4613, 287, 115, 6308),
        {"orphan-inside": 2, "unfinished-entity": 2},
    ),
    Known("resume/dev.char.bmes", "conll", 463, 1497, types(RESUME, 33, 106, 2, 110, 523, 18, 15, 690)),
    Known("resume/test.char.bmes", "conll", 477, 1630, types(RESUME, 28, 112, 6, 112, 553, 33, 14, 772)),
    Known("cmeee/train_data_all.txt", "cmeee", 15000, 61796 - 2, CMEEE_TRAIN, {"empty-entity": 2}),
    Known("cmeee/val_data.txt", "cmeee", 5000, 20300, CMEEE_DEV),
    Known("cmeee/CMeEE_dev.json", "cmeee", 5000, 20300, CMEEE_DEV),
    Known("cmeee/test1.txt", "text", 3000, 0, unlabeled=True),
    Known("cmeee/CMeEE_test.json", "cmeee", 3000, 0, unlabeled=True),
    Known("wnut17/wnut17train.conll", "conll", 3394, 1975, types(WNUT, 221, 140, 264, 548, 660, 142), joiner=" "),
    Known("wnut17/emerging.dev.conll", "conll", 1009, 836, types(WNUT, 34, 105, 39, 74, 470, 114), joiner=" "),
    Known(
        "wnut17/emerging.test.annotated",
        "conll",
        1287,
        1079,
        types(WNUT, 66, 142, 165, 150, 429, 127),
        joiner=" ",
    ),
]


def test_every_public_file_is_known(shared: Path) -> None:
    folder = shared / "data"
    found = {str(path.relative_to(folder)) for path in folder.glob("*/*") if path.is_file()}
    assert found == {known.file for known in FILES}


@pytest.mark.parametrize("known", FILES, ids=lambda known: known.file)
def test_counts(known: Known, shared: Path) -> None:
    path = shared / "data" / known.file
    assert formats.recognise(path)[0] == known.format
    sentences, issues = read(path, "auto", glued_positions=known.glued, joiner=known.joiner)
    counts = Counter(entity.category for sentence in sentences for entity in sentence.entities)
    assert (len(sentences), counts.total()) == (known.sentences, known.entities)
    if known.types is not None:
        assert counts == known.types
    assert codes(issues) == known.issues
    assert all(issue.file == str(path) and issue.line > 0 for issue in issues)
    assert all(records.is_unlabeled(sentence) == known.unlabeled for sentence in sentences)
    assert all(entity.start is not None for sentence in sentences for entity in sentence.entities)
    assert_offsets_hold(sentences)
    assert len({sentence.id for sentence in sentences}) == len(sentences)


def test_both_layouts_of_cmeee_agree(shared: Path) -> None:
    folder = shared / "data" / "cmeee"
    for chip, cblue in (("val_data.txt", "CMeEE_dev.json"), ("test1.txt", "CMeEE_test.json")):
        assert read(folder / chip, "cmeee")[0] == read(folder / cblue, "cmeee")[0]


@pytest.mark.parametrize("split", ["train", "dev", "test"])
def test_both_releases_of_weibo_have_characters_at_the_same_places(split: str, shared: Path) -> None:
    """A lost emoji is one character, as it was: only such characters differ where the messages are the same."""
    first, _ = read(shared / "data" / "weibo" / f"weiboNER.conll.{split}", "conll")
    second, _ = read(shared / "data" / "weibo" / f"weiboNER_2nd_conll.{split}", "conll", glued_positions=True)
    emoji, revised = 0, {sentence.text for sentence in second}
    for sentence in first:
        sentence.text.encode("utf-8")  # no half of a character is left
        here = sum(character > "\uffff" for character in sentence.text)
        if here:
            assert "".join("\ufffd" if c > "\uffff" else c for c in sentence.text) in revised
        emoji += here
    assert emoji == {"train": 6, "dev": 8, "test": 8}[split]
