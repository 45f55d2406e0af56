"""CoNLL columns: every scheme decoded by one rule, Weibo's repairs, and writing that reading gives back."""

from __future__ import annotations

import itertools
import tracemalloc
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.helpers.reading import SMALL, assert_offsets_hold, codes, read, spans

from omniner import records
from omniner.corpus.formats import WriteOptions, conll, tags
from omniner.corpus.formats.fields import IssueLog
from omniner.errors import UserError
from omniner.records import Entity, Sentence


def parse(tmp_path: Path, text: str, **options: object):
    path = tmp_path / "x.conll"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    return read(path, "conll", **options)


def columns(tags: str) -> str:
    return "".join(f"{chr(0x4E00 + i)}\t{tag}\n" for i, tag in enumerate(tags.split()))


@pytest.mark.parametrize(
    ("tags", "expected", "issues"),
    [
        ("B-A I-A O B-A", [(0, 2, "A"), (3, 4, "A")], {}),
        ("B-A B-A I-A", [(0, 1, "A"), (1, 3, "A")], {}),
        ("O I-A I-A O", [(1, 3, "A")], {"orphan-inside": 1}),
        ("B-A I-B I-B", [(0, 1, "A"), (1, 3, "B")], {"orphan-inside": 1}),
        ("S-A B-A I-A S-B", [(0, 1, "A"), (1, 3, "A"), (3, 4, "B")], {}),
        ("B-A I-A E-A S-A", [(0, 3, "A"), (3, 4, "A")], {}),
        ("B-A M-A E-A E-A", [(0, 3, "A"), (3, 4, "A")], {"orphan-inside": 1}),
        ("B-A M-A O S-A", [(0, 2, "A"), (3, 4, "A")], {"unfinished-entity": 1}),
        ("B-A E-B O O", [(0, 1, "A"), (1, 2, "B")], {"unfinished-entity": 1, "orphan-inside": 1}),
        ("B-A I-A L-A U-B", [(0, 3, "A"), (3, 4, "B")], {}),
        ("I-A O I-A", [(0, 1, "A"), (2, 3, "A")], {"orphan-inside": 2}),
        ("I-A O I-A O I-A", [(0, 1, "A"), (2, 3, "A"), (4, 5, "A")], {}),  # three say that it is IOB1
        ("I-A O I-A O I-A O S-A", [(0, 1, "A"), (2, 3, "A"), (4, 5, "A"), (6, 7, "A")], {"orphan-inside": 3}),
        ("B-creative-work I-creative-work", [(0, 2, "creative-work")], {}),
        ("B_品牌_名 I_品牌_名", [(0, 2, "品牌_名")], {}),
        ("B-A o I-A", [(0, 1, "A"), (2, 3, "A")], {"bad-tag": 1, "orphan-inside": 1}),
    ],
)
def test_decoding(tmp_path: Path, tags: str, expected: list[tuple[int, int, str]], issues: dict[str, int]) -> None:
    [sentence], found = parse(tmp_path, columns(tags), separator="tab")
    assert spans(sentence) == expected
    assert codes(found) == issues


@pytest.mark.parametrize(
    ("given", "scheme"),
    [
        ("O O", "bio"),
        ("B-A I-A O", "bio"),
        ("B-A I-A S-A", "bios"),
        ("B-A I-A E-A", "bioes"),
        ("B-A E-A S-A", "bmes"),
        ("B-A M-A E-A", "bmes"),
    ],
)
def test_the_scheme_is_found_from_the_tags(given: str, scheme: str) -> None:
    assert tags.read_tags(Counter(given.split()), "auto", IssueLog(Path())).scheme == scheme


def test_a_tag_of_another_scheme_is_an_issue_and_still_counts(tmp_path: Path) -> None:
    [sentence], issues = parse(tmp_path, columns("B-A E-A O"), scheme="bio")
    assert spans(sentence) == [(0, 2, "A")]
    assert [(issue.code, issue.line) for issue in issues] == [("foreign-tag", 2)]


def test_weibo_second_release(tmp_path: Path) -> None:
    first, second = read(SMALL / "weibo_second.conll", "conll", glued_positions=True)[0]
    assert first.text == "电话：13800000000p0小\ufffd\ufffd\ufffd"  # `p10` is p, `011` is 0, two emoji and one U+FFFD
    assert first.entities == [Entity("0小", "PER.NAM", 15, 17)]
    assert second.entities == [Entity("儿童", "PER.NOM", 1, 3)]
    issues = read(SMALL / "weibo_second.conll", "conll", glued_positions=True)[1]
    assert codes(issues) == {"lost-emoji": 2, "orphan-inside": 1}


def test_weibo_first_release_gets_its_emoji_back() -> None:
    sentences, issues = read(SMALL / "weibo_first.conll", "conll")
    assert [sentence.text for sentence in sentences] == ["看😍🐭北京", "\ufffd好", "😍哥"]
    assert [spans(sentence) for sentence in sentences] == [[(3, 5, "GPE.NAM")], [], [(0, 2, "PER.NAM")]]
    assert codes(issues) == {"split-emoji": 3, "surrogate": 1}
    assert [issue.line for issue in issues] == [2, 4, 9, 12]


def test_glued_positions_that_are_not_expected_or_not_there(tmp_path: Path) -> None:
    _, issues = read(SMALL / "weibo_second.conll", "conll")
    assert "positions-glued" in codes(issues)
    [sentence], issues = parse(tmp_path, "科\tO\n技1\tO\n", glued_positions=True)
    assert (sentence.text, codes(issues)) == ("科技", {"no-position": 1})


def test_a_comment_names_only_the_sentence_that_it_stands_before(tmp_path: Path) -> None:
    rows = "# sent_id = a\n一\tO\n# sent_id = b\n二\tB-A\n-DOCSTART-\tO\n三\tO\n"
    sentences, issues = parse(tmp_path, rows)
    assert [(sentence.id, sentence.text) for sentence in sentences] == [("a", "一二"), ("s-1", "三")]
    assert not issues


def test_blank_lines_may_hold_white_space() -> None:
    sentences, issues = read(SMALL / "blank_with_tab.conll", "conll", joiner=" ")
    assert [sentence.text for sentence in sentences] == ["Empire State", "= ESB", "ok"]
    assert spans(sentences[0]) == [(0, 12, "location")]
    assert spans(sentences[1]) == [(2, 5, "location")]
    assert not issues


def test_halves_at_a_sentence_end_both_count() -> None:
    sentences, issues = read(SMALL / "bmes_halves.conll", "conll")
    assert [spans(sentence) for sentence in sentences] == [[(1, 4, "ORG")], [(0, 2, "ORG"), (2, 3, "NAME")]]
    assert [(issue.code, issue.line) for issue in issues] == [("unfinished-entity", 2), ("orphan-inside", 6)]


def test_more_columns_and_documents() -> None:
    sentences, issues = read(SMALL / "four_columns.conll", "conll", joiner=" ")
    assert [sentence.text for sentence in sentences] == ["EU rejects", "Peter Blackburn", "ok"]
    assert spans(sentences[1]) == [(0, 15, "PER")]
    assert [sentence.post_id for sentence in sentences] == ["four_columns.conll#1"] * 2 + ["four_columns.conll#2"]
    assert not issues


def test_lines_of_several_words_and_of_empty_ones_are_not_read(tmp_path: Path) -> None:
    rows = "1\t我\tO\n2-3\t北京\tO\n2\t北\tB-A\n3\t京\tI-A\n3.1\t市\tO\n"
    [sentence], issues = parse(tmp_path, rows)
    assert (sentence.text, spans(sentence), codes(issues)) == ("我北京", [(1, 3, "A")], {"not-read": 1})


@pytest.mark.parametrize(
    ("tokens", "joiner"), [(["ab", "c"], ""), (["ab", "cd"], " "), (["北京", "ab"], ""), (["北京", "abc"], " ")]
)
def test_words_have_spaces_between_them_unless_half_of_them_is_chinese(tokens: list[str], joiner: str) -> None:
    assert tags.find_joiner(tokens) == joiner


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_line_ends_and_byte_order_mark(tmp_path: Path, end: str, mark: str) -> None:
    sentences, issues = parse(tmp_path, mark + f"北\tB-A{end}京\tI-A{end}{end}好\tO{end}")
    assert [sentence.text for sentence in sentences] == ["北京", "好"]
    assert spans(sentences[0]) == [(0, 2, "A")]
    assert not issues


def test_rows_without_a_tag(tmp_path: Path) -> None:
    [sentence], issues = parse(tmp_path, "北\tB-A\n京\n\tO\n好\tO\n", separator="tab")
    assert (sentence.text, spans(sentence)) == ("北京好", [(0, 1, "A")])
    assert [(issue.code, issue.line) for issue in issues] == [("no-tag", 2), ("empty-token", 3)]
    [bare], issues = parse(tmp_path, "北\n京\n")
    assert (bare.text, records.is_unlabeled(bare), issues) == ("北京", True, [])


def test_wrong_options_are_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"data\.separator"):
        parse(tmp_path, "北 B-A\n京 I-A\n", separator="tab")
    with pytest.raises(UserError, match=r"data\.separator"):
        parse(tmp_path, "北 B-A\n", separator="pipe")
    with pytest.raises(UserError, match=r"data\.scheme"):
        parse(tmp_path, "北 B-A\n", scheme="iob3")


CATEGORIES = st.sampled_from(["PER.NAM", "creative-work", "行为_交易类型", "O"])
CHARACTERS = st.characters(exclude_categories=["Cs"], exclude_characters="\n")


@st.composite
def sentences(draw: st.DrawFn) -> Sentence:
    text = draw(st.text(CHARACTERS, min_size=1, max_size=24))
    cuts = sorted(draw(st.sets(st.integers(0, len(text)), max_size=8)))
    entities = [
        Entity(text[start:end], draw(CATEGORIES), start, end)
        for start, end in itertools.pairwise(cuts)
        if draw(st.booleans())
    ]
    return Sentence("s", text, entities)


@given(items=st.lists(sentences(), min_size=1, max_size=4), scheme=st.sampled_from(sorted(tags.SCHEMES)))
@pytest.mark.parametrize("separator", ["tab", "space"])
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_is_written_is_read_back(tmp_path: Path, items: list[Sentence], scheme: str, separator: str) -> None:
    path = tmp_path / "round.conll"
    assert not conll.write(path, items, WriteOptions(scheme, separator))
    for read_scheme in (scheme, "auto"):
        found, issues = read(path, "conll", scheme=read_scheme, separator=separator)
        assert [sentence.text for sentence in found] == [sentence.text for sentence in items]
        assert [sentence.entities for sentence in found] == [sentence.entities for sentence in items]
        assert_offsets_hold(found)
        assert not issues


def test_words_are_written_and_read_back(tmp_path: Path) -> None:
    item = Sentence("s", "Empire State Building = ESB", [Entity("Empire State Building", "location", 0, 21)])
    path = tmp_path / "x.conll"
    assert not conll.write(path, [item], WriteOptions(joiner=" "))
    assert path.read_text(encoding="utf-8").splitlines()[:3] == [
        "Empire\tB-location",
        "State\tI-location",
        "Building\tE-location",
    ]
    [back], issues = read(path, "conll", joiner=" ")
    assert (back.text, back.entities, issues) == (item.text, item.entities, [])


def test_what_columns_cannot_hold_is_an_issue(tmp_path: Path) -> None:
    items = [
        Sentence("a", "北京大学", [Entity("北京大学", "ORG", 0, 4), Entity("北京", "LOC", 0, 2), Entity("大", "X")]),
        Sentence("b", "一\n二\ud83d", []),
        Sentence("c", "", []),
    ]
    path = tmp_path / "x.conll"
    issues = conll.write(path, items, WriteOptions("bio"))
    assert [(issue.code, issue.id) for issue in issues] == [
        ("overlap", "a"),
        ("no-offsets", "a"),
        ("unwritable-character", "b"),
        ("unwritable-character", "b"),
        ("empty-text", "c"),
    ]
    found, _ = read(path, "conll")
    assert [spans(sentence) for sentence in found] == [[(0, 2, "LOC")], []]
    assert found[1].text == "一\ufffd二\ufffd"
    new_york = Sentence("d", "New York", [Entity("ew", "LOC", 1, 3)])
    [cut] = conll.write(path, [new_york], WriteOptions("bio", joiner=" "))
    assert cut.code == "inside-token"


def test_a_separator_within_a_word_is_an_issue(tmp_path: Path) -> None:
    item = Sentence("s", "a\tb 北京 \t", [Entity("a\tb", "X", 0, 3), Entity("北京", "LOC", 4, 6)])
    path = tmp_path / "x.conll"
    assert codes(conll.write(path, [item], WriteOptions(joiner=" "))) == {"unwritable-character": 1}
    [back], issues = read(path, "conll", joiner=" ")
    assert (back.text, spans(back), issues) == ("a\ufffdb 北京 \t", [(0, 3, "X"), (4, 6, "LOC")], [])


def test_the_rows_of_a_whole_file_are_never_in_memory(tmp_path: Path) -> None:
    path, sentences = tmp_path / "x.conll", 2000
    path.write_text((columns("B-地点 E-地点" + 20 * " O") + "\n") * sentences, encoding="utf-8")
    read(path, "conll")  # loads what reading needs
    tracemalloc.start()
    lines = path.read_text(encoding="utf-8").split("\n")
    held, _ = tracemalloc.get_traced_memory()
    del lines
    tracemalloc.reset_peak()
    found, _ = read(path, "conll")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(found) == sentences
    assert peak < 2.5 * held  # the lines, and the sentences that are made of them


def test_an_issue_of_a_row_does_not_get_the_id_of_the_sentence_before(tmp_path: Path) -> None:
    rows = "# sent_id = a\n一\tO\n\n\tB-A\n二\tB-A\n"
    _, issues = parse(tmp_path, rows)
    assert [(issue.code, issue.line, issue.id) for issue in issues] == [("empty-token", 4, "")]
