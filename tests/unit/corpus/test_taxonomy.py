"""The official inventory is complete and consistent; a flat one is sorted."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest

from omniner.corpus import taxonomy
from omniner.corpus.taxonomy import Taxonomy, primary_of
from omniner.errors import UserError


@pytest.fixture(scope="module")
def official() -> Taxonomy:
    return taxonomy.load_taxonomy("omniner2025")


def test_official_inventory_has_90_categories_in_33_primaries(official: Taxonomy) -> None:
    assert len(official.categories) == len(set(official.categories)) == len(official) == 90
    assert len(official.primaries) == len(set(official.primaries)) == 33


def test_official_names_are_those_of_the_published_annotation(official: Taxonomy, shared: Path) -> None:
    seen = set()
    for folder in ("omni_mixed", "quirks_malformed"):
        for line in (shared / "reference" / folder / "spans.jsonl").read_text(encoding="utf-8").splitlines():
            seen |= {gold[3] for gold in json.loads(line)["gold"]}
    assert seen == set(official.categories)


def test_categories_of_a_primary_stand_together(official: Taxonomy) -> None:
    order = [official.primaries.index(primary_of(category)) for category in official.categories]
    assert order == sorted(order)


def test_english_names_are_there_and_distinct(official: Taxonomy) -> None:
    assert set(official.english) == set(official.categories) | set(official.primaries)
    assert all(name.isascii() and name == name.strip() for name in official.english.values())
    assert len({official.english[category] for category in official.categories}) == 90
    assert len({official.english[primary] for primary in official.primaries}) == 33
    for category in official.categories:
        assert official.english[category].startswith(official.english[primary_of(category)])


@pytest.mark.parametrize(
    ("category", "primary"),
    [
        ("品牌", "品牌"),
        ("人群/宠物_年龄", "人群/宠物"),
        ("时间_年/月维度时间", "时间"),
        ("品类_专业/学科", "品类"),
        ("a_b_c", "a"),
        ("", ""),
    ],
)
def test_primary_ends_at_the_first_underscore(category: str, primary: str) -> None:
    assert primary_of(category) == primary


def test_membership_is_letter_for_letter(official: Taxonomy) -> None:
    assert "品牌" in official
    assert "poi_景点" in official
    for wrong in ("品牌 ", "POI_景点", "品类", "时间", "", None):
        assert wrong not in official
    assert "体验" not in official


def test_nearest_names_the_category_meant(official: Taxonomy) -> None:
    assert official.nearest("时间_年月维度时间") == "时间_年/月维度时间"
    assert official.nearest("人群_年龄") == "人群/宠物_年龄"
    assert official.nearest("zzzz") is None


def test_an_unknown_name_is_a_user_error() -> None:
    message = r"data\.taxonomy: no taxonomy and no file is called 'omniner2026'\. Did you mean omniner2025\?"
    with pytest.raises(UserError, match=message):
        taxonomy.load_taxonomy("omniner2026")


def test_flat_sorts() -> None:
    one = taxonomy.flat_taxonomy("own", ["PER", "LOC", "PER"])
    assert one.categories == ("LOC", "PER")
    assert one.primaries == ("LOC", "PER")
    assert len(taxonomy.flat_taxonomy("none", [])) == 0


def test_a_taxonomy_survives_pickling(official: Taxonomy) -> None:
    copy = pickle.loads(pickle.dumps(official))
    assert copy == official
    assert "品牌" in copy


@pytest.mark.parametrize(
    ("content", "categories"),
    [
        ("品牌\n产品\n\n# 以后再加\n地点\n", ("品牌", "产品", "地点")),
        ("\ufeff一级类别,二级类别\r\n食品,饮料\r\n食品,零食\r\n品牌,\r\n", ("食品_饮料", "食品_零食", "品牌")),
        ("食品\t专业/学科\n食品_饮料\n", ("食品_专业/学科", "食品_饮料")),
        ('"衣, 帽"\n品类\n', ("衣, 帽", "品类")),
        ("衣\u2028帽\n品类\n", ("衣\u2028帽", "品类")),
        ("category\n品牌\n类别\n", ("品牌", "类别")),  # only the first row can be a header
    ],
)
def test_a_list_of_ones_own_keeps_its_order(tmp_path: Path, content: str, categories: tuple[str, ...]) -> None:
    path = tmp_path / "mine.csv"
    path.write_text(content, encoding="utf-8", newline="")
    read = taxonomy.load_taxonomy(str(path))
    assert (read.name, read.categories) == ("mine", categories)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("品牌\n品牌\n".encode(), ":2: '品牌' stands in line 1, too"),
        ("食品,饮料,奶茶\n".encode(), ":1: '食品,饮料,奶茶' is no category"),
        ("食品_甲,饮料\n".encode(), ":1: '食品_甲,饮料' is no category"),
        ("品牌\n".encode("gbk"), "not UTF-8. Convert it"),
        (b"# nothing\n", "names no category"),
        ("品牌\n".encode() + b"x" * 200_000, r":2: no row of a table \(field larger than field limit"),
    ],
)
def test_a_list_that_cannot_be_meant_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "mine.csv"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message):
        taxonomy.load_taxonomy(str(path))
