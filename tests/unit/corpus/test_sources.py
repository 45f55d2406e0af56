"""A data config becomes splits with roles, unique ids, a taxonomy and digests, or one clear error."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf
from tests.conftest import ROOT
from tests.helpers.reading import SMALL, spans

import omniner
from omniner.config import compose
from omniner.config.groups import DataConfig
from omniner.config.validate import validate
from omniner.corpus import formats, sources
from omniner.corpus.formats import ReadOptions, jsonl
from omniner.corpus.taxonomy import OFFICIAL, load_taxonomy
from omniner.errors import UserError
from omniner.records import Entity, Sentence

CONF = ROOT / "conf" / "data"
SHIPPED = sorted(path.stem for path in CONF.glob("[!_]*.yaml"))


def shipped(name: str) -> DataConfig:
    """The config as it is shipped, checked."""
    return compose.to_section(compose.compose_unchecked([f"data={name}"]), "data", DataConfig)


def corpus_of(tmp_path: Path, splits: dict[str, list[Sentence]], **changes: Any) -> DataConfig:
    for name, sentences in splits.items():
        jsonl.write(tmp_path / f"{name}.jsonl", sentences)
    files = {name: [f"{name}.jsonl"] for name in splits}
    base = replace(shipped("weibo"), name="mine", format="jsonl", root=str(tmp_path), files=files, source="")
    return replace(base, **changes)


def sentence(text: str, category: str = "品牌", id: str = "", post: str | None = None) -> Sentence:
    return Sentence(id, text, [Entity(text[:1], category, 0, 1)], post)


def many(count: int, posts: int = 0) -> list[Sentence]:
    return [sentence(f"第{n}句", post=f"p{n % posts}" if posts else None) for n in range(count)]


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_config_is_complete_and_says_what_each_value_means(name: str) -> None:
    config = shipped(name)
    assert config.name == name
    assert set(OmegaConf.load(CONF / f"{name}.yaml")) - {"defaults"} <= set(DataConfig.__dataclass_fields__)
    lines = (CONF / f"{name}.yaml").read_text(encoding="utf-8").splitlines()
    described = [line.strip().partition(":")[0] for line in lines if line.startswith("  ")]
    of_categories = [*config.definitions]
    assert described[len(described) - len(of_categories) :] == of_categories
    rest = lines[: len(lines) - len(of_categories)]
    assert all("# " in line for line in rest if not line.startswith(("defaults:", "name:")))
    assert "@package" not in "".join(lines)


@pytest.mark.parametrize(
    ("name", "sizes", "categories"),
    [
        ("cluener", {"train": 9673, "dev": 1075, "test": 1343}, 10),
        ("weibo", {"train": 1350, "dev": 270, "test": 270}, 8),
        ("weibo_first", {"train": 1350, "dev": 270, "test": 270}, 7),
        ("resume", {"train": 3821, "dev": 463, "test": 477}, 8),
        ("cmeee", {"train": 13500, "dev": 1500, "test": 5000}, 9),
        ("wnut17", {"train": 3394, "dev": 1009, "test": 1287}, 6),
    ],
)
def test_public_corpora(
    name: str, sizes: dict[str, int], categories: int, shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMNINER_DATA", str(shared / "data"))
    corpus = sources.load_corpus(shipped(name), None)
    assert {split: len(sentences) for split, sentences in corpus.splits.items()} == sizes
    assert list(corpus.splits) == ["train", "dev", "test"]
    assert len(corpus.taxonomy.categories) == categories
    ids = [item.id for sentences in corpus.splits.values() for item in sentences]
    assert len(set(ids)) == len(ids)
    readme = (shared / "data" / "README.md").read_text(encoding="utf-8")
    assert all(digest in readme for digest in corpus.digests.values())


def test_a_reported_dev_becomes_test_and_chooses_nothing(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMNINER_DATA", str(shared / "data"))
    config = shipped("cluener")
    corpus = sources.load_corpus(config, None)
    assert corpus.report == "dev"
    assert [item.id for item in corpus.splits["test"][:2]] == ["dev-0", "dev-1"]
    assert all(item.id.startswith("train-") for item in corpus.splits["train"] + corpus.splits["dev"])
    only = sources.load_corpus(config, ["test"])
    assert list(only.splits) == ["test"]
    assert list(only.digests) == ["dev.json"]
    assert only.splits["test"] == corpus.splits["test"]
    assert sources.load_corpus(config, ["dev"]).splits["dev"] == corpus.splits["dev"]
    unlabeled = sources.load_corpus(config, ["unlabeled"]).splits["unlabeled"]
    assert (len(unlabeled), unlabeled[0].id) == (1345, "0")


def test_the_sample_is_generated() -> None:
    config = replace(shipped("sample"), size={"train": 30, "dev": 5, "test": 5})
    corpus = sources.load_corpus(config, None)
    assert {split: len(sentences) for split, sentences in corpus.splits.items()} == config.size
    assert len(corpus.taxonomy.categories) == 90
    assert list(corpus.digests) == ["synthetic"]
    assert sources.load_corpus(config, None).digests == corpus.digests
    assert sources.load_corpus(replace(config, seed=1), None).digests != corpus.digests


def test_the_digest_is_that_of_the_file(tmp_path: Path) -> None:
    corpus = sources.load_corpus(corpus_of(tmp_path, {"train": many(3)}), None)
    assert corpus.digests == {"train.jsonl": hashlib.sha256((tmp_path / "train.jsonl").read_bytes()).hexdigest()}


def test_several_files_of_a_split_are_numbered_on(tmp_path: Path) -> None:
    config = corpus_of(tmp_path, {"a": many(2), "b": many(2)}, files={"train": ["a.jsonl", "b.jsonl"]})
    found = sources.load_corpus(config, None).splits["train"]
    assert [item.id for item in found] == ["train-0", "train-1", "train-2", "train-3"]


def test_ids_become_unique(tmp_path: Path) -> None:
    items = [sentence("一", id="x"), sentence("二", id="x"), sentence("三", id="x")]
    corpus = sources.load_corpus(corpus_of(tmp_path, {"train": items, "test": [sentence("四", id="x")]}), None)
    ids = [item.id for sentences in corpus.splits.values() for item in sentences]
    assert ids == ["x", "train-x", "train-x#2", "test-x"]
    assert [issue.code for issue in corpus.issues] == ["duplicate-id"] * 3


def test_ids_become_unique_whatever_they_are() -> None:
    items = [sentence(text, id=name) for text, name in zip("一二三四", ("x", "train-x", "train-x#3", "x"), strict=True)]
    sources.make_ids_unique(items, "train", set())
    assert len({item.id for item in items}) == 4


def test_dev_is_cut_from_train_by_post(tmp_path: Path) -> None:
    config = corpus_of(tmp_path, {"train": many(100, posts=25), "test": many(5)}, dev_from_train=0.1)
    corpus = sources.load_corpus(config, None)
    train, dev = corpus.splits["train"], corpus.splits["dev"]
    assert (len(train), len(dev)) == (88, 12)  # whole posts of four sentences
    assert not {item.post_id for item in train} & {item.post_id for item in dev}
    assert sources.load_corpus(config, ["dev"]).splits["dev"] == dev
    assert sources.load_corpus(replace(config, seed=7), None).splits["dev"] != dev


def test_the_cut_is_the_same_for_ever() -> None:
    """The draw written down: a change of it would make runs of different versions incomparable."""
    _, dev = sources.cut_by_post(many(50, posts=20), 0.1, seed=42)
    assert sorted({item.post_id or "" for item in dev}) == ["p5", "p6"]
    uneven = [sentence(f"第{p}帖第{n}句", post=f"p{p}") for p in range(60) for n in range(1 + p % 9)]
    _, dev = sources.cut_by_post(uneven, 0.2, seed=42)
    assert sorted({int((item.post_id or "")[1:]) for item in dev}) == [5, 6, 9, 18, 20, 25, 38, 40, 41, 48, 51, 52, 57]


@given(
    posts=st.lists(st.none() | st.integers(0, 9), min_size=2, max_size=40),
    share=st.floats(0.01, 0.6),
    seed=st.integers(0, 5),
)
def test_the_cut_parts_and_keeps_posts_together(posts: list[int | None], share: float, seed: int) -> None:
    items = [sentence(f"第{n}句", post=None if p is None else str(p)) for n, p in enumerate(posts)]
    if len({item.post_id or item.text for item in items}) < 2:
        with pytest.raises(UserError, match="dev_from_train"):
            sources.cut_by_post(items, share, seed)
        return
    rest, part = sources.cut_by_post(items, share, seed)
    assert rest
    assert part
    assert sorted(rest + part, key=items.index) == items
    known = {item.post_id for item in rest} - {None}
    assert not known & {item.post_id for item in part}
    backwards = sources.cut_by_post(items[::-1], share, seed)
    assert [side[::-1] for side in backwards] == [rest, part]


@pytest.mark.parametrize("seed", range(20))
def test_a_large_post_does_not_take_most_of_train(seed: int) -> None:
    sizes = [400, *(1 + n % 9 for n in range(120))]
    items = [sentence(f"第{p}帖第{n}句", post=f"p{p}") for p, size in enumerate(sizes) for n in range(size)]
    _, part = sources.cut_by_post(items, 0.1, seed)
    assert len(part) == pytest.approx(len(items) / 10, rel=0.1)


def test_a_dev_of_one_sentence_is_as_large_as_asked(tmp_path: Path) -> None:
    corpus = sources.load_corpus(corpus_of(tmp_path, {"train": many(5)}, dev_from_train=0.1), None)
    assert (len(corpus.splits["dev"]), corpus.issues) == (1, [])


def test_a_share_that_posts_cannot_give_is_told(tmp_path: Path) -> None:
    train = [sentence(f"第{n}句", post="large" if n < 60 else "small") for n in range(100)]
    corpus = sources.load_corpus(corpus_of(tmp_path, {"train": train, "test": many(5)}, dev_from_train=0.1), None)
    assert {item.post_id for item in corpus.splits["dev"]} == {"small"}
    (issue,) = corpus.issues
    assert issue.code == "size-of-dev"
    assert "40 of 100 sentences, not 10%" in issue.message


@pytest.mark.parametrize("sizes", [(40, 40, 1), (40, 40, 40, 2), (400, 400, 1), (60, 40, 3)])
@pytest.mark.parametrize("seed", range(5))
def test_tiny_posts_alone_are_no_dev_where_a_large_one_can_be_spared(sizes: tuple[int, ...], seed: int) -> None:
    items = [sentence(f"第{p}帖第{n}句", post=f"p{p}") for p, size in enumerate(sizes) for n in range(size)]
    rest, part = sources.cut_by_post(items, 0.1, seed)
    assert 40 <= len(part) <= len(items) / 2 + 2
    assert rest


def test_the_only_large_post_stays_in_train() -> None:
    items = [sentence(f"第{n}句", post="large" if n < 100 else "small") for n in range(102)]
    assert {item.post_id for item in sources.cut_by_post(items, 0.1, 0)[1]} == {"small"}


def test_repeated_texts_stay_on_one_side() -> None:
    rest, part = sources.cut_by_post([sentence(f"第{n % 10}句") for n in range(100)], 0.1, 0)
    assert not {item.text for item in rest} & {item.text for item in part}


def test_a_published_dev_that_is_not_used_is_told(tmp_path: Path) -> None:
    config = corpus_of(tmp_path, {"train": many(20), "dev": many(5), "test": many(5)}, dev_from_train=0.1)
    corpus = sources.load_corpus(config, None)
    assert [issue.code for issue in corpus.issues] == ["unused-split"]
    assert [item.id[:5] for item in corpus.splits["dev"]] == ["train", "train"]
    assert sources.load_corpus(replace(config, report="dev"), None).issues == [], "there it is the one that is reported"


@pytest.mark.parametrize(
    ("changes", "where", "found"),
    [
        ({"report": "train"}, "data.report", "train"),
        ({"on_issue": "stop"}, "data.on_issue", "stop"),
        ({"dev_from_train": 1.0}, "data.dev_from_train", "1.0"),
        ({"dev_from_train": float("nan")}, "data.dev_from_train", "nan"),
        ({"report": "dev"}, "data.dev_from_train", "reported"),
        ({"root": None}, "data.root", "not set"),
        ({"root": "/nowhere/at/all"}, "data.root", "train.jsonl"),
        (
            {"root": __file__},
            "data.root",
            "is a file, not a folder. Name its folder, and the file as data.files.train=",
        ),
        ({"files": {"train": ["train.jsonl", "absent.jsonl"]}}, "data.root", "lacks absent.jsonl"),
        ({"files": {}}, "data.files", "no file"),
        ({"taxonomy": "omniner2026"}, "data.taxonomy", "omniner2026"),
        ({"format": "xml"}, "data.format", "xml"),
        ({"format": "omniner_csv"}, "train.jsonl", "sentence"),
        ({"format": "conll"}, "data.files.train", "no labels"),
    ],
)
def test_what_cannot_be_is_told(tmp_path: Path, changes: dict[str, Any], where: str, found: str) -> None:
    config = corpus_of(tmp_path, {"train": many(5)}, **changes)
    with pytest.raises(UserError) as error:
        sources.load_corpus(validate(DataConfig, asdict(config), "data"), None)
    assert where in error.value.where
    assert found in str(error.value)


def test_a_list_of_ones_own_gives_the_order_and_refuses_other_labels(tmp_path: Path) -> None:
    listed = tmp_path / "list.txt"
    listed.write_text("食品\n品牌\n", encoding="utf-8")
    config = corpus_of(tmp_path, {"train": many(3), "test": [sentence("一家店", "食品")]}, taxonomy=str(listed))
    assert sources.load_corpus(config, None).taxonomy.categories == ("食品", "品牌")
    config = corpus_of(tmp_path, {"train": [sentence("一家店", "食品品")]}, taxonomy=str(listed))
    with pytest.raises(UserError, match=r"train\.jsonl: not in the taxonomy list: '食品品' .*nearest: 食品"):
        sources.load_corpus(config, None)


def test_files_under_other_names_are_listed_with_the_key_that_takes_them(tmp_path: Path) -> None:
    for name in ("train.txt", "dev.txt", "test.txt"):
        (tmp_path / name).write_text("去 O\n喝 O\n小 B-品牌\n满 I-品牌\n", encoding="utf-8")
    config = replace(shipped("own"), root=str(tmp_path))
    with pytest.raises(UserError) as error:
        sources.load_corpus(config, None)
    assert "lacks train.jsonl, dev.jsonl, test.jsonl, but holds dev.txt, test.txt, train.txt" in str(error.value)
    named = re.search(r"'(data\.files=.*?)'", str(error.value))
    assert named is not None
    taken = compose.load(["data=own", f"data.root={tmp_path}", named[1]])  # what the message says to do
    assert set(sources.load_corpus(taken.data, None).splits) == {"train", "dev", "test"}
    config.files["train"] = ["train.txt"]
    with pytest.raises(
        UserError, match=r"lacks dev\.jsonl, test\.jsonl, .*data\.files=\{train: \[train\.txt\], dev: \["
    ):
        sources.load_corpus(config, None)


def test_a_corpus_that_is_not_released_is_not_called_published(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"Source: https://github\.com/TYZY89/OmniNER2025 \(.*not released yet\)"):
        sources.load_corpus(replace(shipped("omniner2025"), root=str(tmp_path)), None)


def test_the_message_says_where_the_files_are_published(tmp_path: Path) -> None:
    config = replace(shipped("msra"), root=str(tmp_path))
    with pytest.raises(UserError) as error:
        sources.load_corpus(config, None)
    for part in ("data.root", "OMNINER_DATA", "msra_train_bio.txt", "msra_test_bio.txt", "Chinese-NLP-Corpus"):
        assert part in str(error.value)


def test_a_split_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no split 'test', only train"):
        sources.load_corpus(corpus_of(tmp_path, {"train": many(5)}), ["test"])


def test_an_unreadable_file_names_its_first_issue(tmp_path: Path) -> None:
    config = corpus_of(tmp_path, {"train": []})
    (tmp_path / "train.jsonl").write_text("{broken\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"no sentence could be read.*bad-json"):
        sources.load_corpus(config, None)


def test_issues_are_kept_or_stop_the_run(tmp_path: Path) -> None:
    config = corpus_of(tmp_path, {"train": many(2)})
    with (tmp_path / "train.jsonl").open("a", encoding="utf-8") as file:
        file.write("{broken\n[]\n")
    assert [issue.line for issue in sources.load_corpus(config, None).issues] == [3, 4]
    with pytest.raises(UserError) as error:
        sources.load_corpus(replace(config, on_issue="fail"), None)
    assert error.value.where == "data.on_issue"
    assert "2 issues (1 bad-json, 1 bad-record)" in error.value.found
    assert "train.jsonl:3" in error.value.found


def test_as_many_losses_as_data_max_issues_allows_are_allowed(tmp_path: Path) -> None:
    config = corpus_of(tmp_path, {"train": many(3)})
    with (tmp_path / "train.jsonl").open("a", encoding="utf-8") as file:
        file.write("{broken\n")
    assert len(sources.load_corpus(replace(config, max_issues=0.25), None).splits["train"]) == 3
    with pytest.raises(UserError, match="25% of its sentences were lost"):
        sources.load_corpus(replace(config, max_issues=0.24), None)


def test_categories_are_checked_against_the_taxonomy(tmp_path: Path) -> None:
    good = corpus_of(tmp_path, {"train": many(2)}, taxonomy="omniner2025")
    assert len(sources.load_corpus(good, None).taxonomy.categories) == 90
    items = [*many(2), sentence("好", "品排"), sentence("坏", "XYZ")]
    with pytest.raises(UserError) as error:
        sources.load_corpus(corpus_of(tmp_path, {"train": items}, taxonomy="omniner2025"), None)
    assert "train.jsonl" in error.value.where
    for part in ("'品排'", "train-2", "nearest: 品牌", "'XYZ'"):
        assert part in error.value.found


def test_sentences_without_labels_are_not_negatives(tmp_path: Path) -> None:
    config = corpus_of(tmp_path, {"train": many(2)})
    with (tmp_path / "train.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"text": "没有标注"}\n')
    corpus = sources.load_corpus(config, None)
    assert len(corpus.splits["train"]) == 2
    assert [(issue.code, issue.id) for issue in corpus.issues] == [("unlabeled", "train-2")]


@pytest.mark.parametrize(
    ("name", "text", "places"),
    [
        ("weibo_second.conll", "电话：13800000000p0小\ufffd\ufffd\ufffd", [(15, 17, "PER.NAM")]),
        ("blank_with_tab.conll", "Empire State", [(0, 12, "location")]),
        ("bmes_halves.conll", "在北大。", [(1, 4, "ORG")]),
    ],
)
def test_a_file_of_which_nothing_is_known(name: str, text: str, places: list[tuple[int, int, str]]) -> None:
    sentences, _ = sources.read_sentences(SMALL / name)
    assert (sentences[0].text, spans(sentences[0])) == (text, places)
    assert sentences[0].id == f"{Path(name).stem}-0"


@pytest.mark.parametrize("taxonomy", ["omniner2025", "flat"])
def test_active_are_the_categories_of_the_training_split_in_the_order_of_the_taxonomy(
    tmp_path: Path, taxonomy: str
) -> None:
    names = load_taxonomy(OFFICIAL).categories
    train = [sentence("一句", names[7]), sentence("二句", names[2]), sentence("三句", names[7])]
    data = corpus_of(tmp_path, {"train": train, "dev": [sentence("四句", names[0])]}, taxonomy=taxonomy)
    corpus = sources.load_corpus(data, None)
    assert set(corpus.active) == {names[2], names[7]}
    assert list(corpus.active) == [name for name in corpus.taxonomy.categories if name in corpus.active]
    assert corpus.active is corpus.active


@given(
    posts=st.lists(st.none() | st.integers(0, 6), min_size=1, max_size=40),
    most=st.integers(1, 45),
    seed=st.integers(0, 3),
)
def test_a_limit_takes_whole_posts_the_same_for_any_order(posts: list[int | None], most: int, seed: int) -> None:
    items = [sentence(f"第{n}句", post=None if p is None else str(p)) for n, p in enumerate(posts)]
    taken = sources.limit_by_post(items, most, seed)
    assert 0 < len(taken) <= most
    assert [one for one in items if one in taken] == taken, "in their order"
    left = {one.post_id for one in items if one not in taken} - {None}
    assert not left & {one.post_id for one in taken} or len(taken) == most, "a part of a post where no whole one fits"
    if most >= len(items):
        assert taken == items
    elif min(Counter(one.post_id or one.text for one in items).values()) <= most:
        assert sources.limit_by_post(items[::-1], most, seed) == taken[::-1]


def test_a_limit_draws_texts_that_utf8_cannot_hold() -> None:
    items = [Sentence(str(number), f"{number}\ud83d") for number in range(3)]
    assert len(sources.limit_by_post(items, 2, 0)) == 2


def test_a_limit_holds_for_each_split_or_for_one() -> None:
    def sizes(limit: str) -> dict[str, int]:
        overrides = ["data=sample", "data.size={train: 30, dev: 12, test: 12}", f"data.limit={limit}"]
        splits = sources.load_corpus(compose.load(overrides).data, None).splits
        return {name: len(sentences) for name, sentences in splits.items()}

    assert all(8 <= size <= 10 for size in sizes("10").values())
    assert 8 <= sizes("{train: 10}")["train"] <= 10
    assert (sizes("{train: 10}")["dev"], sizes("{train: 0}")["train"], sizes("0")["train"]) == (12, 30, 30)


OPTIONS: dict[str, Any] = {
    "scheme": "bmes",
    "separator": "space",
    "glued_positions": True,
    "joiner": "-",
    "offsets": "utf16",
    "annotator": "王",
    "tag_column": 3,
}


@pytest.mark.parametrize("own", [True, False], ids=["the corpus", "another file"])
def test_every_option_of_reading_reaches_the_reader(own: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert {*OPTIONS, "id_prefix", "id_first"} == {*ReadOptions.__dataclass_fields__}
    seen: list[ReadOptions] = []

    def read(path: Path, format: str, options: ReadOptions) -> tuple[list[Sentence], list[Any]]:
        seen.append(options)
        return [sentence("一句", id=path.name)], []

    monkeypatch.setattr(formats, "read", read)
    data = corpus_of(tmp_path, {"train": many(1), "test": many(1)}, **OPTIONS)
    if own:
        sources.load_corpus(data, ["train", "test"])
    else:
        sources.read_sentences(tmp_path / "train.jsonl", data)
    assert seen
    for options in seen:
        assert {name: getattr(options, name) for name in OPTIONS} == OPTIONS


def test_one_file_is_read_alike_wherever_it_is_named(tmp_path: Path) -> None:
    """Words of no Chinese have spaces between them in a corpus, in an input and from Python."""
    path = tmp_path / "train.conll"
    path.write_text("EU\tB-ORG\nrejects\tO\nGerman\tB-MISC\ncall\tO\n", encoding="utf-8")
    data = replace(shipped("own"), root=str(tmp_path), files={"train": [path.name]})
    read = [
        sources.load_corpus(data, ["train"]).splits["train"],
        sources.read_sentences(path, data)[0],
        omniner.read(path),
        omniner.read(path, "conll"),
    ]
    assert [[one.text for one in sentences] for sentences in read] == [["EU rejects German call"]] * 4
