"""JSON lines, CLUENER, CMeEE and the official CSV: what is read, what becomes an issue, what comes back."""

from __future__ import annotations

import itertools
import logging
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.helpers.reading import SMALL, assert_offsets_hold, codes, read, spans

from omniner import progress, records
from omniner.corpus import formats
from omniner.corpus.formats import jsonl
from omniner.errors import UserError
from omniner.records import Entity, Sentence, sentence_to_json, to_line


def parse(tmp_path: Path, text: str, format: str = "jsonl"):
    path = tmp_path / "x"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    return read(path, format)


CHARACTERS = st.characters(exclude_categories=["Cs"])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(CHARACTERS), lambda inner: st.lists(inner, max_size=3)
)


@st.composite
def sentences(draw: st.DrawFn, id: str = "x") -> Sentence:
    text = draw(st.text(CHARACTERS, min_size=1, max_size=12))
    entities: list[Entity] = []
    for start in draw(st.sets(st.integers(0, len(text) - 1), max_size=4)):
        end = draw(st.integers(start + 1, len(text)))
        category = draw(st.text(CHARACTERS, min_size=1, max_size=3))
        placed = Entity(text[start:end], category, start, end)
        entities.append(placed if draw(st.booleans()) else Entity(placed.text, category))
    post = draw(st.none() | st.text(CHARACTERS, min_size=1, max_size=3))
    meta = draw(st.dictionaries(st.text(CHARACTERS, max_size=3), JSON, max_size=2))
    return Sentence(draw(st.text(CHARACTERS, min_size=1, max_size=4)), text, entities, post, meta)


@given(items=st.lists(sentences(), max_size=4))
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_json_lines_come_back_as_they_were(tmp_path: Path, items: list[Sentence]) -> None:
    path = tmp_path / "x.jsonl"
    jsonl.write(path, items)
    assert read(path, "jsonl") == (items, [])


def test_json_lines_keep_what_can_be_kept(tmp_path: Path) -> None:
    lines = [
        '{"text": "北京好", "entities": [{"text": "北京", "category": "A", "start": 1, "end": 3}]}',
        '{"id": 5, "text": "北京好", "extra": 1, "entities": '
        '[{"text": "北京", "category": "A", "start": 0, "end": 9}]}',
        '{"text": "北京好", "extra": 1, "entities": '
        '[{"text": "北京"}, {"category": "A"}, 7, {"text": "", "category": ""}]}',
        '{"text": "北京好", "entities": [{"text": "北京", "category": "A", "start": true, "end": 2}]}',
        '{"text": "北京好", "entities": [{"text": "北京", "category": "A", "start": 0}]}',
        '{"text": "北京好", "entities": {}, "meta": [1], "post_id": 2.5}',
        '{"text": "好", "entities": [{"text": "好", "category": "A", "start": 0, "end": 1}, '
        '{"text": "好", "category": "A", "start": 0, "end": 1}, {"text": "好", "category": "A"}, '
        '{"text": "好", "category": "A"}]}',
        '{"text": "\\ud83d好", "id": "x"}',
        "",
        '{"text": ""}',
    ]
    found, issues = parse(tmp_path, "\n".join(lines))
    assert [(issue.code, issue.line) for issue in issues] == [
        ("offset-mismatch", 1),
        ("unknown-key", 2),
        ("offset-range", 2),
        ("bad-entity", 3),
        ("bad-entity", 3),
        ("bad-entity", 3),
        ("bad-entity", 3),
        ("bad-entity", 4),
        ("bad-entity", 5),
        ("bad-record", 6),
        ("bad-record", 6),
        ("duplicate-entity", 7),
        ("surrogate", 8),
        ("empty-text", 10),
    ]
    assert [sentence.id for sentence in found] == ["s-0", "5", "s-2", "s-3", "s-4", "s-5", "s-6", "x"]
    assert found[0].entities == found[1].entities == [Entity("北京", "A")]  # the pair stays, the place does not
    assert found[6].entities == [Entity("好", "A", 0, 1), Entity("好", "A"), Entity("好", "A")]
    assert found[7].text == "\ufffd好"
    assert records.is_unlabeled(found[7])


def test_a_lone_surrogate_in_a_sentence_can_be_written_and_is_replaced_on_reading(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text(to_line(sentence_to_json(Sentence("a", "好\udc00"))) + "\n", encoding="utf-8")
    [sentence], issues = read(path, "jsonl")
    assert (sentence.text, codes(issues)) == ("好\ufffd", {"surrogate": 1})


def test_cluener() -> None:
    sentences, issues = read(SMALL / "cluener.json", "cluener")
    assert spans(sentences[0]) == [(0, 2, "city"), (0, 3, "people"), (4, 6, "city"), (9, 11, "city")]
    assert (sentences[1].id, records.is_unlabeled(sentences[1])) == ("7", True)
    assert sentences[2].entities == [Entity("名字", "name"), Entity("错位", "name")]
    assert [(issue.code, issue.line) for issue in issues] == [
        ("offset-mismatch", 3),
        ("offset-range", 3),
        ("bad-entity", 3),
        ("bad-entity", 3),
    ]


def test_cmeee_chip_text() -> None:
    sentences, issues = read(SMALL / "cmeee_chip.txt", "cmeee")
    assert sentences[0].text == "\ufeff（1）房室结消融治疗。"  # the mark counts: offsets 5 to 7 are 室结消
    assert [entity.text for entity in sentences[0].entities] == ["室结消", "室结消融治"]
    assert spans(sentences[1]) == [(2, 4, "sym"), (6, 8, "sym")]
    assert spans(sentences[2]) == []
    assert not any(map(records.is_unlabeled, sentences))
    assert [(issue.code, issue.line) for issue in issues] == [("empty-entity", 2), ("bad-entity", 2)]


def test_cmeee_cblue_json() -> None:
    sentences, issues = read(SMALL / "cmeee_cblue.json", "cmeee")
    assert sentences[0].entities == [Entity("房室结", "bod", 4, 7)]
    assert [records.is_unlabeled(sentence) for sentence in sentences] == [False, True, False]
    assert sentences[2].entities == [Entity("好", "dis")]
    assert sorted((issue.code, issue.line) for issue in issues) == [("bad-entity", 5), ("offset-mismatch", 5)]


def test_a_torn_json_list_gives_what_stands_before_the_tear(tmp_path: Path) -> None:
    found, issues = parse(tmp_path, '[\n{"text": "一"},\n{"text": "二"},\n{"text": "三', "cmeee")
    assert [sentence.text for sentence in found] == ["一", "二"]
    assert [(issue.code, issue.line) for issue in issues] == [("bad-json", 4)]


def test_omniner_csv() -> None:
    sentences, issues = read(SMALL / "omniner.csv", "omniner_csv")
    assert sentences[0].entities == [
        Entity("北京", "场所", 2, 4),
        Entity("北京", "场所", 4, 6),
        Entity("北京", "品牌", 4, 6),
    ]
    assert sentences[1].entities == [Entity("苹果", "品牌", 2, 4)]  # 3 to 5 counts the emoji as two
    assert sentences[2].text == '多行\n文本, 有引号 "好"'
    assert sentences[3].entities == [Entity("苹果", "品牌", 1, 3)]  # an inclusive end
    assert [sentence.post_id for sentence in sentences] == ["n1", "n1", "n2", "n3"]
    assert [(issue.code, issue.line) for issue in issues] == [
        ("duplicate-entity", 2),  # listed three times, twice in the sentence
        ("offset-units", 3),
        ("offset-units", 6),
        ("bad-json", 7),
        ("several-labels", 2),
    ]
    assert "1 item (first here) with several labels" in issues[-1].message
    assert_offsets_hold(sentences)


def test_omniner_csv_prefers_one_way_of_counting_for_a_row(tmp_path: Path) -> None:
    """哈 stands at code points 2 and 3; only UTF-16 fits both items, code points fit the first by accident."""
    label = (
        '[{""text"": ""哈"", ""labels"": [""A""], ""start"": 3, ""end"": 4}, '
        '{""text"": ""们"", ""labels"": [""A""], ""start"": 5, ""end"": 6}]'
    )
    [sentence], issues = parse(tmp_path, f'note_id,sentence,label\n1,😀好哈哈们,"{label}"\n', "omniner_csv")
    assert spans(sentence) == [(2, 3, "A"), (4, 5, "A")]
    assert codes(issues) == {"offset-units": 1}
    assert "2 entities" in issues[0].message


@pytest.mark.parametrize(
    "text",
    [
        '{"text": "你好", "doc": "a", "entities": []}',
        '[{"instruction": "", "input": "你好", "output": "[]", "document_id": "a"}]',
        "doc,text,entity,category,start,end\na,你好,好,A,1,2\n",
    ],
)
def test_a_key_that_seems_to_name_posts_is_answered_with_the_one_that_does(tmp_path: Path, text: str) -> None:
    [issue] = parse(tmp_path, text, "auto")[1]
    assert (issue.code, "call it post_id" in issue.message) == ("unknown-key", True)


def test_omniner_csv_with_wrong_offsets_rows_and_columns(tmp_path: Path) -> None:
    label = '"[{""text"": ""好"", ""labels"": ""A"", ""start"": 0, ""end"": 1, ""x"": 0}]"'
    text = f'note_id,sentence,label,more\n1,你好,{label},x\n2,a\n3,,[],x\n4,"open\n5,b'
    [sentence], issues = parse(tmp_path, text, "omniner_csv")
    assert sentence.entities == [Entity("好", "A", 1, 2)]
    assert [(issue.code, issue.line) for issue in issues] == [
        ("unknown-key", 1),
        ("offset-mismatch", 2),
        ("bad-record", 3),
        ("empty-text", 4),
        ("bad-csv", 5),
    ]
    with pytest.raises(UserError, match="sentence"):
        parse(tmp_path, "a,b\n1,2\n", "omniner_csv")
    [bare], issues = parse(tmp_path, "sentence\n你好\n", "omniner_csv")
    assert (bare.text, bare.post_id, records.is_unlabeled(bare), issues) == ("你好", None, True, [])


def test_ids_continue_where_they_are_told_to(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_text("一\n二\n", encoding="utf-8")
    assert [s.id for s in read(path, "cmeee", id_prefix="train", id_first=7)[0]] == ["train-7", "train-8"]


def test_an_unknown_format_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"data\.format"):
        read(tmp_path / "x", "xml")
    with pytest.raises(UserError, match="No such file"):
        read(tmp_path / "x", "auto")


@pytest.mark.parametrize(
    ("name", "format", "why"),
    [
        ("weibo_second.conll", "conll", "glued_positions"),
        ("weibo_first.conll", "conll", "tab; bio"),
        ("bmes_halves.conll", "conll", "space; bmes"),
        ("cluener.json", "cluener", "`label`"),
        ("cmeee_chip.txt", "cmeee", "|||"),
        ("cmeee_cblue.json", "cmeee", "JSON list"),
        ("omniner.csv", "omniner_csv", "header"),
        ("alpaca.json", "alpaca", "`instruction`"),
        ("sharegpt.jsonl", "alpaca", "`conversations`"),
    ],
)
def test_detection(name: str, format: str, why: str) -> None:
    found, reason = formats.recognise(SMALL / name)
    assert found == format
    assert why in reason


@pytest.mark.parametrize(
    ("text", "format"),
    [
        ('{"text": "好", "entities": []}\n', "jsonl"),
        ('{"text": "好"}\n', "jsonl"),
        ('{broken\n{"text": "好", "label": {}}\n', "cluener"),
        ('[{"text": "', "cmeee"),
        ("[图片]今天天气好\n第二句\n", "text"),
        ("北\n京\n\n好\n", "conll"),
        ("北,B-A\n京,I-A\n", "conll"),
    ],
)
def test_detection_of_texts(tmp_path: Path, text: str, format: str) -> None:
    (tmp_path / "x").write_text(text, encoding="utf-8")
    assert formats.recognise(tmp_path / "x")[0] == format


def test_detection_says_how_many_records_fit(tmp_path: Path) -> None:
    lines = ['{"text": "好", "entities": []}', '{"text": "好", "entities": []}', '{"words": "好"}']
    (tmp_path / "x").write_text("\n".join(lines), encoding="utf-8")
    found = "JSON lines with `text` and `entities`; 2 of 3 sampled fit; a guess: data.format settles it"
    assert formats.recognise(tmp_path / "x") == ("jsonl", found)


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (b"", "empty"),
        (b" \n\t\r\n", "empty"),
        (b"PK\x03\x04\x00\x00", "not a text file"),
        (b'{"prompt": "a", "label": "[]", "predict": "[]"}', "predictions"),
        (b"<html><body>", "no known format"),
        (b"{broken", "no known format"),
        (b"[" * 100000, "no known format"),
    ],
)
def test_what_is_no_corpus_is_told(tmp_path: Path, data: bytes, found: str) -> None:
    (tmp_path / "x").write_bytes(data)
    with pytest.raises(UserError, match=found):
        formats.recognise(tmp_path / "x")


def test_equal_words_of_a_corpus_share_their_memory(tmp_path: Path) -> None:
    item = '{"text": "我爱北京", "entities": [{"text": "北京", "category": "地点", "start": 2, "end": 4}]}\n'
    (first, second), _ = parse(tmp_path, 2 * item)
    assert first.entities[0].text is second.entities[0].text
    assert first.entities[0].category is second.entities[0].category


@pytest.mark.parametrize(
    ("format", "text", "said"),
    [
        ("jsonl", '{"text": "我"}\n' * 3, "lines of x read"),
        ("jsonl", '[{"text": "我"}, {"text": "我"}, {"text": "我"}]', "characters of x read"),
        ("conll", "我\tO\n\n" * 3, "lines of x read"),
    ],
)
def test_reading_says_how_far_it_is(
    format: str, text: str, said: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = itertools.count(step=20)
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(seconds))
    with caplog.at_level(logging.INFO, "omniner"):
        parse(tmp_path, text, format)
    assert [said in line for line in caplog.messages] == [True] * 3


def test_the_documents_of_brat_are_counted_when_written_and_read(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = itertools.count(step=20)
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(seconds))
    sentences = [Sentence(name, "我爱北京", [Entity("北京", "地点", 2, 4)]) for name in "abc"]
    with caplog.at_level(logging.INFO, "omniner"):
        formats.write(tmp_path / "x", "brat", sentences, formats.WriteOptions())
        found, _ = read(tmp_path / "x", "brat")
    assert found == sentences
    said = ["documents written"] * 3 + ["documents of x read"] * 3
    assert [words in line for words, line in zip(said, caplog.messages, strict=True)] == [True] * 6
