"""Every check of a corpus: what trips it, what does not, and when there is nothing to look at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest

from omniner.config import compose
from omniner.config.groups import StatsConfig
from omniner.corpus import taxonomy
from omniner.corpus.stats.checks import CHECKS, SurveyedCorpus, Verdict, run_checks
from omniner.corpus.stats.measure import measure_corpus
from omniner.corpus.taxonomy import Taxonomy
from omniner.records import Entity, Issue, Sentence

SETTINGS = compose.load(["task=stats"]).stats
LONG = "今天和朋友一起去新开的商场逛街顺便吃了火锅味道真的很不错下次还想再来一次"


def sentence(id: str, text: str, *entities: Entity, post: str | None = None, labeled: bool = True) -> Sentence:
    return Sentence(id, text, list(entities), post, {} if labeled else {"unlabeled": True})


def mention(text: str, surface: str, category: str) -> Entity:
    start = text.index(surface)
    return Entity(surface, category, start, start + len(surface))


def train(*more: Sentence) -> list[Sentence]:
    """Twelve different sentences with a mention of each of two categories, and some more."""
    made = []
    for number in range(12):
        text = f"{chr(0x4E00 + 40 * number) * 4}甲{number:02}乙{number:02}"
        entities = [mention(text, f"甲{number:02}", "A"), mention(text, f"乙{number:02}", "B")]
        made.append(sentence(f"train-{number}", text, *entities, post=f"p{number}"))
    return [*made, *more]


def other(split: str, *more: Sentence) -> list[Sentence]:
    text = f"{split}丙丁"
    return [sentence(f"{split}-0", text, mention(text, "丙", "A"), mention(text, "丁", "B"), post=split), *more]


def survey(
    splits: Mapping[str, Sequence[Sentence]],
    settings: StatsConfig = SETTINGS,
    issues: Sequence[Issue] = (),
    known: Taxonomy | None = None,
) -> dict[str, Verdict]:
    surveyed = SurveyedCorpus(measure_corpus("made", splits, settings), "made up", list(issues), known, 60, settings)
    found = run_checks(surveyed)
    assert [one.check for one in found] == list(CHECKS)
    return {one.check: one for one in found}


def statuses(found: Mapping[str, Verdict]) -> dict[str, str]:
    return {name: one.status for name, one in found.items() if one.status != "passed"}


CLEAN = {"train": train(), "dev": other("dev"), "test": other("test")}


def test_a_clean_corpus_passes_everything() -> None:
    known = taxonomy.flat_taxonomy("made", ["A", "B"])
    assert statuses(survey(CLEAN, known=known)) == {}
    assert statuses(survey(CLEAN)) == {"unknown": "skipped", "unused": "skipped"}


APPLES = [sentence(f"x{n}", f"{n}苹果", Entity("苹果", category, 1, 3)) for n, category in enumerate("ABABA")]
BAD: dict[str, tuple[dict[str, list[Sentence]], str, float]] = {
    "leakage": ({"test": other("test", train()[0])}, "failed", 1 / 2),
    "near_leakage": (
        {"train": train(sentence("x", LONG)), "test": other("test", sentence("y", f"{LONG}！"))},
        "failed",
        1 / 2,
    ),
    "posts": ({"test": other("test", sentence("x", "又一句", post="p3"))}, "failed", 1 / 14),
    "seen": ({"test": [sentence("x", "甲03", mention("甲03", "甲03", "A"))]}, "warned", 1.0),
    "duplicates": ({"train": train(sentence("x", LONG), sentence("y", LONG))}, "warned", 1 / 16),
    "near_duplicates": (
        {"train": train(sentence("x", LONG), sentence("y", f"{LONG}啦"))},
        "warned",
        2 / 16,
    ),
    "inconsistent": (
        {"train": train(sentence("x", LONG), sentence("y", LONG, mention(LONG, "火锅", "A")))},
        "failed",
        2 / 16,
    ),
    "edge_space": ({"test": other("test", sentence("x", "去 北京", Entity(" 北京", "A", 1, 4)))}, "failed", 1 / 29),
    "edge_punctuation": (
        {"test": other("test", sentence("x", "去北京。", Entity("北京。", "A", 1, 4)))},
        "warned",
        1 / 29,
    ),
    "unplaced": ({"test": other("test", sentence("x", "去北京", Entity("北京", "A")))}, "warned", 1 / 29),
    "overlapping": (
        {"test": other("test", sentence("x", "去北京", Entity("北京", "A", 1, 3), Entity("京", "B", 2, 3)))},
        "warned",
        2 / 30,
    ),
    "ambiguous": ({"dev": other("dev", *APPLES), "test": other("test", *APPLES)}, "warned", 10 / 38),
    "odd_characters": ({"dev": other("dev", sentence("x", "好\ufffd"))}, "warned", 1 / 15),
    "empty": ({"dev": other("dev", sentence("x", " \u3000"))}, "failed", 1 / 15),
    "no_entity": ({"dev": other("dev", *(sentence(f"x{n}", chr(0x5000 + n)) for n in range(20)))}, "warned", 20 / 34),
    "too_long": ({"dev": other("dev", sentence("x", "".join(map(chr, range(0x6000, 0x6000 + 61)))))}, "warned", 1 / 15),
    "outliers": ({"train": train(sentence("x", LONG))}, "warned", 1 / 15),
    "rare": ({"train": train(sentence("x", "新的", Entity("新", "C", 0, 1)))}, "warned", 1 / 3),
    "untrained": ({"test": other("test", sentence("x", "新的", Entity("新", "C", 0, 1)))}, "warned", 1 / 3),
    "unmeasured": ({"dev": [sentence("x", "丙", Entity("丙", "A", 0, 1))]}, "warned", 1 / 2),
}  # fmt: skip


@pytest.mark.parametrize("check", BAD)
def test_what_trips_a_check(check: str) -> None:
    changes, status, value = BAD[check]
    verdict = survey({**CLEAN, **changes})[check]
    assert (verdict.status, verdict.value) == (status, pytest.approx(value))
    assert verdict.line().startswith(f"{status:8}{check}: ")
    assert verdict.advice in verdict.line()


def test_categories_are_held_against_the_taxonomy() -> None:
    found = survey(CLEAN, known=taxonomy.flat_taxonomy("made", ["A", "C", "D"]))
    assert (found["unknown"].status, found["unknown"].value) == ("failed", 14 / 28)
    assert found["unknown"].found.endswith(": B")
    assert (found["unused"].status, found["unused"].value) == ("warned", 2 / 3)
    assert found["unused"].found.endswith(": C, D")


def test_issues_of_the_readers_are_counted_by_kind() -> None:
    issues = [Issue("bad-json", "x"), Issue("offset-mismatch", "y"), Issue("bad-json", "z")]
    found = survey(CLEAN, issues=issues)["issues"]
    assert (found.status, found.value) == ("failed", 3 / 14)
    assert found.found.endswith("2 bad-json, 1 offset-mismatch")


def test_every_check_is_tripped_by_one_of_these_tests() -> None:
    assert set(BAD) | {"unknown", "unused", "issues"} == set(CHECKS)


def test_every_limit_in_the_configuration_is_one_of_a_check() -> None:
    assert set(SETTINGS.warn) == set(CHECKS)
    assert set(SETTINGS.fail) < set(CHECKS)
    assert all(SETTINGS.fail[name] >= SETTINGS.warn[name] for name in SETTINGS.fail)


def test_a_check_without_a_limit_only_tells() -> None:
    settings = compose.load(["task=stats", "~stats.warn.duplicates"]).stats
    verdict = survey({**CLEAN, **BAD["duplicates"][0]}, settings)["duplicates"]
    assert (verdict.status, verdict.value > 0) == ("passed", True)


def test_one_split_has_no_leaks_to_look_for() -> None:
    found = survey({"all": train()})
    skipped = {name for name, status in statuses(found).items() if status == "skipped"}
    expected = {"leakage", "near_leakage", "posts", "seen", "untrained", "unmeasured", "unknown", "unused"}
    assert skipped == expected
    assert found["rare"].found == "0 of 2 categories have fewer than 10 mentions in all (0.00%)"
    assert found["leakage"].found == "one split only"


def test_without_train_each_split_is_held_against_those_before_it() -> None:
    found = survey({"a": other("a"), "b": other("b", other("a")[0])})
    assert found["leakage"].found == "1 of 2 of b in a (50.00%)"
    assert found["rare"].found == "no labelled train split"


def test_too_many_candidates_skip_the_search() -> None:
    settings = compose.load(["task=stats", "stats.candidates=0"]).stats
    changes = BAD["near_duplicates"][0]
    found = survey({**CLEAN, **changes}, settings)
    assert found["near_duplicates"].status == found["near_leakage"].status == "skipped"
    assert "stats.candidates=0" in found["near_leakage"].found


def test_texts_without_labels_are_checked_as_texts() -> None:
    bare = [sentence("u", train()[0].text, labeled=False), sentence("v", "没有标签", labeled=False)]
    found = survey({**CLEAN, "unlabeled": bare})
    assert found["leakage"].value == 1 / 2
    assert found["no_entity"].value == 0
    assert found["unmeasured"].status == "passed"
