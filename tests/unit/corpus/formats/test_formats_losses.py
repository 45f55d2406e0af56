"""What a file says reaches its sentences, or is an issue: forms that are easily lost."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.helpers.reading import codes, read, spans

from omniner.corpus import formats, sources
from omniner.errors import UserError
from omniner.records import Entity, is_unlabeled
from omniner.scoring.predictions import prediction_from_line, read_predictions
from omniner.scoring.units import locate_predictions

WEBANNO = "#FORMAT=WebAnno TSV 3.3\n#T_SP=webanno.custom.NamedEntity|identifier|value\n\n\n#Text=我爱北京市\n"


def write_lines(path: Path, *items: object) -> Path:
    path.write_text("".join(json.dumps(item, ensure_ascii=False) + "\n" for item in items), encoding="utf-8")
    return path


def test_webanno_mentions_within_tokens(tmp_path: Path) -> None:
    """The row of the token has `_`; a mention may start within one token and end with the next."""
    path = tmp_path / "x.tsv"
    rows = [
        "1-1\t0-3\t我爱北\t_\t_",
        "1-1.1\t1-2\t爱\t_\tA\\|B",
        "1-1.2\t2-3\t北\t_\t地点[1]",
        "1-2\t3-5\t京市\t_\t地点[1]",
    ]
    path.write_text(WEBANNO + "\n".join(rows) + "\n", encoding="utf-8")
    [sentence], issues = read(path, "auto")
    assert spans(sentence) == [(1, 2, "A|B"), (2, 5, "地点")]
    assert codes(issues) == {"unknown-key": 1}


@pytest.mark.parametrize(("start", "end"), [(2, 100), (2, -1), (-2, 4), (4, 2)])
def test_offsets_outside_the_text_are_no_place(tmp_path: Path, start: int, end: int) -> None:
    entity = {"text": "北京", "category": "地点", "start": start, "end": end}
    path = write_lines(tmp_path / "x.jsonl", {"text": "我爱北京", "entities": [entity]})
    [sentence], issues = read(path, "jsonl")
    assert all(one.start is None for one in sentence.entities)
    assert len(issues) == 1
    given = [Entity("北京", "地点", start, end)]
    [placed], issues = locate_predictions([sentence], [given])
    assert (placed, codes(issues)) == ([Entity("北京", "地点", 2, 4)], {"offsets-do-not-fit": 1})


@pytest.mark.parametrize("offsets", [{}, {"start": 0, "end": 1}], ids=["none", "wrong"])
def test_one_mention_of_two_categories_has_a_place_in_a_table(tmp_path: Path, offsets: dict[str, int]) -> None:
    items = [{"text": "北京", "labels": [name], **offsets} for name in ("地点", "品牌")]
    cell = json.dumps(items, ensure_ascii=False).replace('"', '""')
    path = tmp_path / "x.csv"
    path.write_text(f'note_id,sentence,label\n1,我爱北京,"{cell}"\n', encoding="utf-8")
    [sentence], issues = read(path, "omniner_csv")
    assert spans(sentence) == [(2, 4, "地点"), (2, 4, "品牌")]
    assert codes(issues) == ({"offset-mismatch": 2} if offsets else {})
    assert all(issue.message.endswith("looked for by its words") for issue in issues)


def task(number: int, *results: dict[str, object]) -> dict[str, object]:
    return {"id": number, "data": {"text": "我爱北京"}, "annotations": [{"result": list(results)}]}


CHOICE = {"type": "choices", "value": {"choices": ["好"]}}
LABEL = {"type": "labels", "value": {"start": 2, "end": 4, "text": "北京", "labels": ["地点"]}}


@pytest.mark.parametrize(("results", "unlabeled"), [([CHOICE, LABEL], [False, False]), ([CHOICE], [True, True])])
def test_label_studio_tells_by_the_file_whether_entities_were_asked_for(
    tmp_path: Path, results: list[dict[str, object]], unlabeled: list[bool]
) -> None:
    path = tmp_path / "x.json"
    path.write_text(json.dumps([task(1, CHOICE), task(2, *results)]), encoding="utf-8")
    sentences, issues = read(path, "label_studio")
    assert [is_unlabeled(sentence) for sentence in sentences] == unlabeled
    assert codes(issues) == {"not-read": 1}


def test_prodigy_answers_to_one_text_are_one_sentence(tmp_path: Path) -> None:
    """Each accepted answer has a part of the gold; an answer of another session is not one of them."""
    text = {"text": "我爱北京", "answer": "accept", "_input_hash": 7, "_session_id": "a"}
    place, person = {"start": 2, "end": 4, "label": "地点"}, {"start": 0, "end": 1, "label": "人物"}
    answers = [{**text, "spans": [place]}, {**text, "spans": [person]}, {**text, "spans": [], "_session_id": "b"}]
    path = write_lines(tmp_path / "x.jsonl", *answers, {**answers[0], "_input_hash": [1], "text": "别的北京"})
    sentences, issues = read(path, "prodigy")
    assert [spans(sentence) for sentence in sentences] == [[(0, 1, "人物"), (2, 4, "地点")], [(2, 4, "地点")]]
    assert [(issue.code, issue.line) for issue in issues] == [("merged-answers", 2), ("not-read", 3)]


@pytest.mark.parametrize("item", ["北京", 5, None, []])
def test_uie_results_that_are_no_objects_are_issues(tmp_path: Path, item: object) -> None:
    record = {"content": "我爱北京", "prompt": "地点", "result_list": [item, {"text": "北京", "start": 2, "end": 4}]}
    [sentence], issues = read(write_lines(tmp_path / "x.txt", record), "uie")
    assert (spans(sentence), codes(issues)) == ([(2, 4, "地点")], {"bad-entity": 1})


@pytest.mark.parametrize("format", ["doccano", "label_studio", "cmeee"])
def test_a_file_that_is_not_there_is_told(tmp_path: Path, format: str) -> None:
    with pytest.raises(UserError, match="nowhere"):
        read(tmp_path / "nowhere", format)


def test_a_submission_loses_nothing_silently(tmp_path: Path) -> None:
    gold, path = tmp_path / "gold.jsonl", tmp_path / "cluener_predict.json"
    write_lines(gold, {"id": "0", "text": "叶老桂去北京", "entities": []})
    label = {"name": ["叶老桂"], "address": {"北京": [[4, 5]], "去": 3}}
    path.write_text("\n" + json.dumps({"id": 0, "label": label}) + "\n\n", encoding="utf-8")
    loaded = read_predictions(path, gold)
    assert loaded.predictions[0].entities == [Entity("北京", "address", 4, 6)]
    assert codes(loaded.issues) == {"bad-entity": 1, "bad-offsets": 1}


def test_a_prediction_without_an_engine_has_none() -> None:
    assert prediction_from_line('{"id": "1", "entities": [], "engine": null}').engine == ""


@pytest.mark.parametrize("format", ["alpaca", "jsonl"])
@pytest.mark.parametrize("turned", [1, 2, 3], ids=["less than half", "half", "more than half"])
def test_which_half_of_a_pair_is_the_surface_is_told_by_most_pairs(tmp_path: Path, format: str, turned: int) -> None:
    pairs = [["北京", "地点"]] * 2 + [["地点", "北京"]] * turned
    pairs += [["北京", "地点"]] * (turned == 1)
    if format == "alpaca":
        records = [{"instruction": "一", "input": "我爱北京", "output": json.dumps([pair])} for pair in pairs]
    else:
        records = [{"text": "我爱北京", "entities": [pair]} for pair in pairs]
    sentences, issues = read(write_lines(tmp_path / "x.jsonl", *records), format)
    found = [[entity.text for entity in sentence.entities if entity.start == 2] for sentence in sentences]
    assert found == [["北京"] if (pair[0] == "地点") == (turned == 3) else [] for pair in pairs]
    assert codes(issues).get("turned-pairs", 0) == (turned == 3)


def test_what_tokens_are_is_decided_for_a_file_of_tagged_lines(tmp_path: Path) -> None:
    """The third line fits as two words; in a file of characters it lacks tags."""
    path = tmp_path / "x.tsv"
    path.write_text("我爱\tO O\n北京\tB-地点 I-地点\n北京 上海\tB-地点 O\n", encoding="utf-8")
    sentences, issues = read(path, "tagged_lines")
    assert [(sentence.text, spans(sentence)) for sentence in sentences] == [("我爱", []), ("北京", [(0, 2, "地点")])]
    assert [(issue.code, issue.line) for issue in issues] == [("bad-record", 3)]


@pytest.mark.parametrize(("entities", "found"), [(None, [True]), ([], [False]), ("北京", []), ({"a": 1}, [])])
def test_spacy_entities_of_another_type_are_an_issue(tmp_path: Path, entities: object, found: list[bool]) -> None:
    sentences, issues = read(write_lines(tmp_path / "x.json", ["我爱北京", {"entities": entities}]), "spacy")
    assert [is_unlabeled(sentence) for sentence in sentences] == found
    assert codes(issues) == ({} if found else {"bad-record": 1})


WORDS = [*zip("我爱北京", ("O", "O", "B-LOC", "I-LOC"), strict=True)]
QUOTE = ('"', "O")


@pytest.mark.parametrize("others", [[], ["\t"], ["30\tragged"]], ids=["whole", "blank", "ragged"])
@pytest.mark.parametrize("rows", [[*WORDS, QUOTE], [QUOTE, *WORDS], [QUOTE, QUOTE], [('"', "O"), ('""""', "O")]])
def test_a_quote_is_a_word_between_tabs(tmp_path: Path, rows: list[tuple[str, str]], others: list[str]) -> None:
    sentences = [WORDS] * 3 + [rows] + [WORDS] * 3 + [rows] + [WORDS]
    lines = [f"{number}\t{word}\t{tag}" for number, words in enumerate(sentences) for word, tag in words]
    path = tmp_path / "x.tsv"
    path.write_text("\n".join(["sentence_id\tword\ttag", *lines, *others]) + "\n", encoding="utf-8")
    found, issues = read(path, "auto", joiner=None)
    expected = ["".join(word for word, _ in words).replace('""""', '"') for words in sentences]
    assert [sentence.text for sentence in found] == expected
    assert set(codes(issues)) <= {"bad-record"}


def table_of(texts: list[str], delimiter: str) -> str:
    rows = [[str(number), text, "北京", "地点"] for number, text in enumerate(texts)]
    return "".join(delimiter.join(row) + "\n" for row in [["id", "text", "entity", "category"], *rows])


@pytest.mark.parametrize("opened", [(5, 30), (5,)])
def test_a_text_may_begin_with_a_quote_between_tabs(tmp_path: Path, opened: tuple[int, ...]) -> None:
    texts = [f"{chr(34) * (number in opened)}我爱北京{number}{chr(34) * (number == 30)}" for number in range(40)]
    path = tmp_path / "x.tsv"
    path.write_text(table_of(texts, "\t"), encoding="utf-8")
    sentences, issues = read(path, "entity_table")
    expected = [text.strip(chr(34)) if text[0] == text[-1] == chr(34) else text for text in texts]
    assert ([sentence.text for sentence in sentences], issues) == (expected, [])


def test_quoted_cells_between_tabs_keep_their_ends_of_lines(tmp_path: Path) -> None:
    texts = ['"去\n北京"', '"去\t""北京"""', "北京", '"北京\n\n好"']
    path = tmp_path / "x.tsv"
    path.write_text(table_of(texts, "\t"), encoding="utf-8")
    sentences, issues = read(path, "entity_table")
    assert ([sentence.text for sentence in sentences], issues) == (
        ["去\n北京", '去\t"北京"', "北京", "北京\n\n好"],
        [],
    )


def test_a_quote_that_swallows_rows_between_commas_is_told(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    rows = "".join(f"{number},我爱北京{number},北京,地点\n" for number in range(40))
    path.write_text("id,text,entity,category\n" + rows.replace(",我爱北京5,", ',"我爱北京5,', 1), encoding="utf-8")
    [issue] = read(path, "entity_table")[1]
    assert (issue.code, issue.line, round(issue.unread, 2)) == ("bad-csv", 7, 0.85)
    assert "lines 7 to 41 are left out" in issue.message
    swallowed = rows.replace(",我爱北京5,北京,", ',"我爱北京5,北京,', 1).replace(",地点\n9,", ',地点"\n9,', 1)
    path.write_text("id,text,entity,category\n" + swallowed, encoding="utf-8")
    sentences, issues = read(path, "entity_table")
    assert len(sentences) < 40
    assert "bad-csv" in codes(issues)
    swallowed = rows.replace("5,我爱北京5,北京,地点\n6,我爱北京6,", '5,"我爱北京5,北京,人名\n6,我爱北京6",', 1)
    path.write_text("id,text,entity,category\n" + swallowed, encoding="utf-8")
    assert [(issue.code, issue.line) for issue in read(path, "entity_table")[1]] == [("bad-csv", 7)]
    path.write_text('sentence,label\n"Hello, you\nthere","[]"\n"好, 的","[]"\n', encoding="utf-8")
    sentences, issues = read(path, "omniner_csv")
    assert ([sentence.text for sentence in sentences], issues) == (["Hello, you\nthere", "好, 的"], [])


EXTRACT = "2021,北京\n2022,上海\n2023,小满\n广州"  # each line of its cell has as many commas as a row


@pytest.mark.parametrize(
    ("header", "texts"),
    [
        ("label,sentence", [f"小满{number}\nb,c\nd,e\nf,g" for number in range(20)]),
        ("sentence,label", [EXTRACT, *["去喝小满"] * 10]),
        ("sentence,label", ["好的,谢谢\n好的", "好的", *map(str, range(9))]),  # its lines begin as other texts
        ("note_id,sentence,label", ["Hello, you\nthere, my", "Hello you,\nthere, my"]),
    ],
)
def test_quoted_cells_may_have_the_commas_of_rows(tmp_path: Path, header: str, texts: list[str]) -> None:
    path = tmp_path / "x.csv"
    rows = [{"note_id": str(number), "sentence": f'"{text}"', "label": "[]"} for number, text in enumerate(texts)]
    lines = [header, *(",".join(row[name] for name in header.split(",")) for row in rows)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    sentences, issues = read(path, "omniner_csv")
    assert ([sentence.text for sentence in sentences], issues) == (texts, [])


@pytest.mark.parametrize("order", [1, -1], ids=["word first", "label first"])
@pytest.mark.parametrize("between", [["小"], ["小", "满"], list("我爱小满")])
def test_quotes_that_are_words_between_commas_swallow_no_row_silently(
    tmp_path: Path, between: list[str], order: int
) -> None:
    words = ["去", '"', *between, '"', "。"]
    path = tmp_path / "x.csv"
    lines = [",".join([word, "O"][::order]) for word in ["char", *words]]
    lines[0] = ",".join(["char", "label"][::order])
    path.write_text("\n".join([*lines, ",", *lines[1:]]) + "\n", encoding="utf-8")
    assert codes(read(path, "auto")[1])["bad-csv"] == 2


@pytest.mark.parametrize("order", [1, -1], ids=["word first", "label first"])
def test_a_quote_that_swallows_different_labels_is_told_by_other_rows(tmp_path: Path, order: int) -> None:
    path = tmp_path / "x.csv"
    rows = [("word", "label"), ("去", "O"), ('"北京', "B-地点"), ("的", "I-地点"), ('人"', "O"), ("。", "O")]
    others = [("上", "B-地点"), ("海", "I-地点"), *[(word, "O") for word in "好吧那么"]]
    path.write_text("".join(f"{','.join(row[::order])}\n" for row in [*rows, *others]), encoding="utf-8")
    issues = read(path, "auto")[1]
    assert [(issue.code, issue.line) for issue in issues if issue.code == "bad-csv"] == [("bad-csv", 3)]


@pytest.mark.parametrize("row", ["[],{}", "{},[]", "7,{},[]"])
def test_a_text_that_begins_with_a_quote_swallows_no_row_silently(tmp_path: Path, row: str) -> None:
    names = {"{}": "sentence", "[]": "label", "7": "note_id"}
    path = tmp_path / "x.csv"
    lines = [row.format(text) for text in ["去北京", '"我爱北京', "好", '去北京"', "好"]]
    path.write_text("\n".join([",".join(names[one] for one in row.split(",")), *lines]) + "\n", encoding="utf-8")
    sentences, issues = read(path, "omniner_csv")
    assert [sentence.text for sentence in sentences] == ["去北京", "好"]
    assert [(issue.code, issue.line) for issue in issues] == [("bad-csv", 3)]


ITEM = {"text": "去喝小满", "entities": [{"text": "小满", "category": "品牌", "start": 2, "end": 4}]}


@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize("form", ["[{}]", '{{"data": [{}]}}', "{}"], ids=["list", "in an object", "values in a row"])
def test_a_list_that_breaks_is_refused_and_says_what_share_is_lost(
    tmp_path: Path, form: str, indent: int | None
) -> None:
    whole = json.dumps(ITEM, ensure_ascii=False, indent=indent or (0 if form == "{}" else None))
    items = [whole] * 5 + [whole.replace('"entities"', "entities")] + [whole] * 94
    path = tmp_path / "x.json"
    path.write_text(form.format((",\n" if form != "{}" else "\n").join(items)), encoding="utf-8")
    line = 1 + 5 * (whole.count("\n") + 1)
    with pytest.raises(UserError, match=rf"x\.json:{line}: 9[45]% of the file.*to line \d+.*max_issues=1"):
        sources.check_read(path, *read(path, "jsonl"), limit=0.5)
    sentences, issues = sources.check_read(path, *read(path, "jsonl"), limit=1)
    assert (len(sentences), codes(issues)) == (5, {"bad-json": 1})


def test_a_torn_last_item_is_one_record(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text(json.dumps([ITEM] * 5)[:-9], encoding="utf-8")
    sentences, [issue] = sources.check_read(path, *read(path, "jsonl"), limit=0.5)
    assert (len(sentences), issue.unread) == (4, 0)


@pytest.mark.parametrize("rest", ["]", ";", "\n// end\n"])
@pytest.mark.parametrize("form", ["[{}]", "{}"], ids=["list", "values in a row"])
def test_a_rest_without_an_item_is_no_lost_record(tmp_path: Path, form: str, rest: str) -> None:
    path = tmp_path / "x.json"
    whole = json.dumps(ITEM, indent=1)
    path.write_text(form.format((", " if form == "[{}]" else "\n").join([whole] * 10)) + rest, encoding="utf-8")
    sentences, [issue] = read(path, "jsonl")
    assert (len(sentences), issue.code, issue.unread) == (10, "not-read", 0)
    assert "the rest, in which no item begins, is not read" in issue.message


@pytest.mark.parametrize(
    ("end", "fate"),
    [("", "the file ends there"), (",", "the file ends there"), ('] {"text": "好"}', "the last item is left out")],
)
def test_an_item_is_called_left_out_only_if_there_is_one(tmp_path: Path, end: str, fate: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(json.dumps([ITEM] * 5)[:-1] + end, encoding="utf-8")
    sentences, [issue] = read(path, "jsonl")
    assert (len(sentences), issue.code, issue.message.endswith(f"; {fate}")) == (5, "bad-json", True)


@pytest.mark.parametrize("between", ["", "\n"])
def test_lists_behind_one_another_are_read(tmp_path: Path, between: str) -> None:
    path = tmp_path / "x.json"
    parts = [json.dumps([ITEM] * count, ensure_ascii=False) for count in (2, 1, 5)]
    path.write_text(between.join(parts), encoding="utf-8")
    sentences, issues = formats.read(path, "auto", formats.ReadOptions())
    assert (len(sentences), issues) == (8, [])


def test_lines_of_another_encoding_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    line = (json.dumps(ITEM, ensure_ascii=False) + "\n").encode()
    path.write_bytes(line * 60 + line.decode().encode("gb18030") * 40)
    with pytest.raises(UserError, match=r"x\.jsonl:61: .*in 40 of 100 lines.*iconv"):
        read(path, "jsonl")
    path.write_bytes(line * 98 + line.replace("喝".encode(), b"\xff") * 2)
    sentences, issues = read(path, "jsonl")
    assert (len(sentences), codes(issues)["not-utf8"]) == (100, 2)


def test_files_joined_with_their_byte_order_marks_lose_no_line(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_text(2 * ("\ufeff" + json.dumps(ITEM) + "\n"), encoding="utf-8")
    sentences, issues = read(path, "auto")
    assert (len(sentences), issues) == (2, [])
    for joined in (json.dumps([ITEM] * 2), json.dumps(ITEM, indent=1) * 2):
        path.write_text(2 * f"\ufeff{joined}\n" + "\ufeff", encoding="utf-8")
        sentences, issues = read(path, "auto")
        assert (len(sentences), issues) == (4, [])
    path.write_text(2 * "\ufeff北\tB-A\n京\tI-A\n\n", encoding="utf-8")
    sentences, issues = read(path, "auto")
    assert ([sentence.text for sentence in sentences], issues) == (["北京", "北京"], [])
