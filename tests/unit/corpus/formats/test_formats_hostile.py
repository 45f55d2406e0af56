"""Files made to break a reader end in an issue or a UserError, and in linear time."""

from __future__ import annotations

import json
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.helpers.reading import SMALL, assert_offsets_hold, codes, read

from omniner.corpus import formats
from omniner.corpus.formats import fields
from omniner.errors import UserError
from omniner.registry import FORMATS

GOOD = {
    "jsonl": '{"text": "好", "entities": []}',
    "cluener": '{"text": "好", "label": {}}',
    "doccano": '{"text": "好", "label": []}',
    "label_studio": '{"data": {"text": "好"}, "annotations": [{"result": []}]}',
}
BROKEN = [
    "[" * 200_000,
    '{"a":' * 200_000,
    '{"text": "好", "entities": [], "label": {}, "meta": {"a": NaN}}',
    '{"text": "好", "entities": [], "label": {}, "meta": {"a": -Infinity}}',
    '{"text": "好", "entities": [], "label": {}, "meta": {"a": 1e999}}',
    '{"text": "好", "text": "坏", "entities": [], "label": {}}',
    '{"text": 3, "entities": []}',
    '{"entities": [], "label": {}}',
    '{"text": "好", "id": ' + "9" * 5000 + "}",
    '{"text": "好"} {"text": "好"}',
    "[]",
    "null",
    '"text"',
    "{",
    "\x00",
]


@pytest.mark.parametrize("broken", BROKEN, ids=lambda text: text[:30])
@pytest.mark.parametrize("format", sorted(GOOD))
def test_a_broken_line_costs_only_itself(tmp_path: Path, format: str, broken: str) -> None:
    path = tmp_path / "x"
    path.write_text(f"{GOOD[format]}\n{broken}\n{GOOD[format]}\n", encoding="utf-8")
    sentences, issues = read(path, format)
    assert [sentence.text for sentence in sentences] == ["好", "好"]
    assert [issue.line for issue in issues] == [2]
    assert issues[0].code in ("bad-json", "bad-record")
    assert len(str(issues[0])) < 300 + len(str(path))


def test_meta_may_not_be_deep(tmp_path: Path) -> None:
    path = tmp_path / "x"
    deep = '{"a":' * 200 + "1" + "}" * 200
    path.write_text(f'{{"text": "好", "entities": [], "meta": {deep}}}\n', encoding="utf-8")
    [sentence], issues = read(path, "jsonl")
    assert (sentence.meta, codes(issues)) == ({}, {"bad-record": 1})


@pytest.mark.parametrize(
    ("text", "texts", "issues"),
    [
        ('[{"text":' * 100_000, [], {"bad-json": 1}),
        ('[{"text": "好"}, NaN]', ["好"], {"bad-json": 1}),
        ('[{"text": "好"}, 1, [], {}, {"text": "好"}]', ["好", "好"], {"bad-record": 3}),
        ('[{"text": "好"} {"text": "好"}]', ["好"], {"bad-json": 1}),
        ('[{"text": "好"}] [', ["好"], {"bad-json": 1}),
        ("[", [], {"bad-json": 1}),
        ("[]", [], {}),
    ],
)
def test_broken_json_lists(tmp_path: Path, text: str, texts: list[str], issues: dict[str, int]) -> None:
    path = tmp_path / "x"
    path.write_text(text, encoding="utf-8")
    sentences, found = read(path, "cmeee")
    assert [sentence.text for sentence in sentences] == texts
    assert codes(found) == issues


def test_an_unknown_field_may_be_deep(tmp_path: Path) -> None:
    path = tmp_path / "x"
    deep = "[" * 600 + "]" * 600
    path.write_text(
        f'{{"text": "好", "entities": [[0, 1, "A"], {{"category": "A", "x": {deep}}}]}}\n', encoding="utf-8"
    )
    [sentence], issues = read(path, "jsonl")
    assert len(sentence.entities) == 1
    assert codes(issues) == {"bad-entity": 1}


@pytest.mark.parametrize("page", ["<p></p>", f"<p>&#{'9' * 5000};</p>"], ids=["empty", "no character"])
def test_a_page_without_a_text_is_left_out(tmp_path: Path, page: str) -> None:
    path = tmp_path / "x"
    result = [{"type": "hypertextlabels", "value": {"start": 0, "end": 1, "hypertextlabels": ["A"]}}]
    tasks = [{"data": {"text": text}, "annotations": [{"result": result}]} for text in (page, "<p>好</p>")]
    path.write_text(json.dumps(tasks), encoding="utf-8")
    sentences, issues = read(path, "label_studio")
    assert [sentence.text for sentence in sentences] == ["好"]
    assert len(issues) == 1


@pytest.mark.parametrize(
    "table",
    [
        'text,label,label\n我爱北京,"[[0, 1, ""A""]]","[[2, 4, ""B""]]"\n',
        'note_id,sentence,label,label\nn,北京,[],"[{""text"": ""北京"", ""labels"": [""B""]}]"\n',
        "word,label,label\n北,O,B-A\n京,O,I-A\n",
    ],
)
def test_two_columns_of_one_name_are_refused(tmp_path: Path, table: str) -> None:
    path = tmp_path / "x.csv"
    path.write_text(table, encoding="utf-8")
    with pytest.raises(UserError, match=r"x\.csv:1: 2 columns called 'label'\. Rename or remove"):
        read(path, "auto")
    path.write_text(table.replace(",label,label", ",label,,"), encoding="utf-8")  # spreadsheets write empty columns
    assert "2 columns" not in str(read(path, formats.recognise(path)[0])[1])


def test_many_pairs_of_one_sentence_take_no_time(tmp_path: Path) -> None:
    path = tmp_path / "x"
    pairs = [[f"{number}", "A"] for number in range(40_000)]
    path.write_text(json.dumps({"text": "0 1 1", "entities": pairs}), encoding="utf-8")
    begin = time.process_time()
    [sentence], issues = read(path, "jsonl")
    assert len(sentence.entities) == 40_000
    assert "1 of them stand more often" in str(issues[-1])
    assert time.process_time() - begin < 8


def test_long_blanks_take_no_time(tmp_path: Path) -> None:
    """By their square these would take minutes."""
    path = tmp_path / "x"
    begin = time.process_time()
    path.write_text(f"# id{' ' * 50_000}\n# newdoc{' ' * 50_000}\n北\tB-A\n京\tI-A\n", encoding="utf-8")
    [sentence], _ = read(path, "conll")
    path.write_text('{"text": "好", "entities": []}\n' * 30_000 + "\n" * 100_000, encoding="utf-8")
    assert formats.recognise(path)[0] == "jsonl"
    assert sentence.text == "北京"
    assert time.process_time() - begin < 5


def test_a_line_too_long_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fields, "MAX_LINE", 100)
    path = tmp_path / "x"
    path.write_text("好" * 101 + "\n好\n", encoding="utf-8")
    [sentence], issues = read(path, "cmeee")
    assert (sentence.text, issues[0].code, issues[0].line) == ("好", "line-too-long", 1)
    monkeypatch.setattr(fields, "MAX_FILE", 100)
    with pytest.raises(UserError, match="Split the file"):
        read(path, "cmeee")


def test_encodings(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes("好\n".encode() * 9 + b"\xff\n")
    sentences, issues = read(path, "cmeee")
    assert (len(sentences), sentences[9].text) == (10, "\ufffd")
    assert [(issue.code, issue.line) for issue in issues] == [("not-utf8", 10)]
    path.write_bytes("今天天气好\n去北京\n".encode("gb18030"))
    with pytest.raises(UserError, match="not UTF-8"):
        read(path, "cmeee")
    path.write_text("今天天气好\n", encoding="utf-16")
    with pytest.raises(UserError, match="UTF-16"):
        read(path, "cmeee")


@pytest.mark.parametrize("separators", ["\u2028", "\x85", "\x0b", "\x0c", "\x1c"])
def test_only_a_newline_ends_a_line(tmp_path: Path, separators: str) -> None:
    path = tmp_path / "x"
    path.write_text(f"一{separators}二\n", encoding="utf-8")
    assert [sentence.text for sentence in read(path, "cmeee")[0]] == [f"一{separators}二"]


@given(data=st.binary(max_size=200) | st.text(max_size=100).map(lambda t: t.encode("utf-8", "ignore")))
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@pytest.mark.parametrize("format", ["auto", *FORMATS])
def test_any_bytes_are_answered(tmp_path: Path, format: str, data: bytes) -> None:
    path = tmp_path / "x"
    path.write_bytes(data)
    try:
        sentences, _ = read(path, format, glued_positions=bool(len(data) % 2))
    except UserError:
        return
    assert_offsets_hold(sentences)
    for sentence in sentences:
        sentence.text.encode("utf-8")
        assert sentence.text


@given(place=st.integers(0, 10_000), byte=st.integers(0, 255), cut=st.booleans())
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@pytest.mark.parametrize("name", sorted(path.name for path in SMALL.iterdir()))
def test_a_damaged_corpus_is_answered(tmp_path: Path, name: str, place: int, byte: int, cut: bool) -> None:
    """One byte changed, or the file torn: nothing but sentences that hold and issues, or a UserError."""
    data = bytearray((SMALL / name).read_bytes())
    at = place % len(data)
    data[at : len(data) if cut else at + 1] = bytes([byte])
    path = tmp_path / "x"
    path.write_bytes(data)
    format, _ = formats.recognise(SMALL / name)
    try:
        sentences, _ = read(path, format)
    except UserError:
        return
    assert_offsets_hold(sentences)


STANDOFF = [
    "T1\tA 0 2\t北京\n",
    "T1\tA 0 1;1 2\t北 京\n",
    "T2\tA 0 99999999999999999999\t北\n",
    "T3\tA 9999999999 0;0 2\t\n",
    "T4\t" + "A 0 1" + ";0 1" * 5000 + "\t北\n",
    "T\t\t\t\n",
    "\ufeffT5\tB 2 3\t好",
    "R1\n",
    "\n",
    "\x00",
]


@given(
    text=st.binary(max_size=60) | st.sampled_from(["北京好\r\n\n好", "\ufeff\n\n", "\n", ""]).map(str.encode),
    lines=st.lists(st.sampled_from(STANDOFF).map(str.encode) | st.binary(max_size=30), max_size=5),
)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_standoff_is_answered(tmp_path: Path, text: bytes, lines: list[bytes]) -> None:
    (tmp_path / "x.txt").write_bytes(text)
    (tmp_path / "x.ann").write_bytes(b"".join(lines))
    for path in (tmp_path, tmp_path / "x.txt"):
        try:
            sentences, issues = read(path, "auto")
        except UserError:
            continue
        assert_offsets_hold(sentences)
        assert all(sentence.text for sentence in sentences)
        assert sentences or issues


@pytest.mark.parametrize("format", ["doccano", "brat", "cmeee", "gliner", "spacy", "jsonl"])
def test_a_short_file_cannot_ask_for_much_memory(tmp_path: Path, format: str) -> None:
    """Places without surfaces: 5,000 entities of a million characters each would be 20 GB."""
    text, places = "好" * 1_000_000, 5_000
    path = tmp_path / "x.txt"
    if format == "doccano":
        labels = ", ".join('[0, 1000000, "A"]' for _ in range(places))
        path.write_text(f'{{"text": "{text}", "label": [{labels}]}}\n', encoding="utf-8")
    elif format == "gliner":
        item = {"tokenized_text": [text], "ner": [[0, 0, "A"]] * places}
        path.write_text(json.dumps([item], ensure_ascii=False), encoding="utf-8")
    elif format in ("spacy", "jsonl"):
        labels = {"entities": [[0, 1_000_000, "A"]] * places}
        item = [[text, labels]] if format == "spacy" else {"text": text, **labels}
        path.write_text(json.dumps(item, ensure_ascii=False), encoding="utf-8")
    elif format == "cmeee":
        path.write_text(text + "|||0    999999    A" * places + "\n", encoding="utf-8")
    else:
        path.write_text(text, encoding="utf-8")
        (tmp_path / "x.ann").write_text("T1\tA 0 1000000\t\n" * places, encoding="utf-8")
    tracemalloc.start()
    sentences, issues = read(path, format)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (len(sentences), sentences[0].entities, codes(issues)) == (1, [], {"entity-too-long": places})
    assert peak < 50e6


@pytest.mark.slow
def test_reading_a_long_document_of_brat_is_linear(tmp_path: Path) -> None:
    """Mentions over line breaks make one sentence of all its lines; four times as long is four times the work."""

    def seconds(lines: int) -> Iterator[float]:
        (tmp_path / "x.txt").write_text("北京好\n" * lines, encoding="utf-8")
        marks = (f"T{n}\tA {4 * n + 1} {4 * n + 3};{4 * n + 4} {4 * n + 5}\t京好 北\n" for n in range(lines - 1))
        (tmp_path / "x.ann").write_text("".join(marks), encoding="utf-8")
        for _ in range(3):
            start = time.process_time()
            [sentence], issues = read(tmp_path, "brat")
            took = time.process_time() - start
            assert (len(sentence.entities), issues) == (lines - 1, [])
            yield took

    short = min(seconds(5_000))
    assert any(long < 24 * short for long in seconds(40_000))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("format", "unit"),
    [
        ("conll", "北\tB-A\n京\tI-A\n\n"),
        ("cluener", '{"text": "北京好", "label": {"A": {"北京": [[0, 1]]}}}\n'),
        ("cmeee", "北京好|||0    1    bod|||\n"),
        ("jsonl", '{"text": "北京好", "entities": [{"text": "北京", "category": "A", "start": 0, "end": 1}]}\n'),
        ("alpaca", '{"input": "北京好", "output": "[[\\"北京\\", \\"A\\"]]"}\n'),
        ("omniner_csv", 'n,北京好,"[{""text"": ""北京"", ""labels"": [""A""]}]"\n'),
        ("doccano", '{"text": "北京好", "label": [[0, 2, "A"]]}\n'),
        ("label_studio", '{"text": "😀北京", "label": [{"start": 2, "end": 4, "text": "北京", "labels": ["A"]}]}\n'),
    ],
)
def test_reading_is_linear(tmp_path: Path, format: str, unit: str) -> None:
    """Eight times the file costs eight times the time, give or take a busy machine; by its square it would be 64."""
    head = "note_id,sentence,label\n" if format == "omniner_csv" else ""
    path = tmp_path / "x"

    def seconds(count: int) -> Iterator[float]:
        path.write_text(head + unit * count, encoding="utf-8")
        for _ in range(3):
            start = time.process_time()
            read(path, format)
            yield time.process_time() - start

    short = min(seconds(5_000))
    assert any(long < 24 * short for long in seconds(40_000))
