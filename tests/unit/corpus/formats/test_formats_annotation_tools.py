"""Label Studio, doccano and brat: what their exports say, what becomes an issue, what they are given."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path

import pytest
from tests.helpers.reading import SMALL, assert_offsets_hold, codes, read, spans
from tests.unit.corpus.test_sources import shipped

from omniner import records
from omniner.corpus import formats, sources
from omniner.corpus.formats import WriteOptions
from omniner.errors import UserError
from omniner.records import Entity, Sentence

OPTIONS = WriteOptions(scheme="bioes", separator="tab", joiner="")


def documents(tmp_path: Path, **texts: str) -> Path:
    """A folder of files; `a_txt="…"` is `a.txt`."""
    folder = tmp_path / "documents"
    folder.mkdir()
    for name, text in texts.items():
        (folder / name.replace("_", ".")).write_text(text, encoding="utf-8", newline="")
    return folder


def test_documents_of_spacy(tmp_path: Path) -> None:
    """Their JSON is read; a DocBin is refused with the way to it."""
    import spacy
    from spacy.tokens import DocBin

    document = spacy.blank("zh").make_doc("张三在北京😀上海")
    document.ents = [document.char_span(0, 2, "PER"), document.char_span(6, 8, "LOC")]
    DocBin(docs=[document]).to_disk(tmp_path / "train.spacy")
    with pytest.raises(UserError, match=r"train\.spacy: a DocBin of spaCy.*Write doc\.to_json\(\)"):
        read(tmp_path / "train.spacy", "auto")
    (tmp_path / "a.jsonl").write_text(json.dumps(document.to_json() | {"spans": {}, "cats": None}), encoding="utf-8")
    [sentence], issues = read(tmp_path / "a.jsonl", "auto")
    assert (sentence.text, spans(sentence)) == (document.text, [(0, 2, "PER"), (6, 8, "LOC")])
    assert [issue.message.split()[0] for issue in issues] == ["'tokens'"]


def test_label_studio_tasks() -> None:
    sentences, issues = read(SMALL / "label_studio.json", "auto")
    assert [(s.id, spans(s)) for s in sentences] == [
        ("11", [(3, 5, "地点"), (3, 7, "机构"), (3, 7, "学校")]),
        ("12", [(3, 5, "地点")]),  # 4 to 6 counts the emoji as two
        ("13", [(0, 6, "产品"), (0, 8, "句")]),  # trimmed white space
        ("14", []),
        ("15", [(0, 1, "二")]),  # the ground truth
        ("16", [(0, 1, "猜")]),
        ("17", [(1, 3, "地点"), (None, None, "地点")]),
    ]
    assert [s.id for s in sentences if records.is_unlabeled(s)] == ["14"]
    assert sentences[0].post_id == "p1"
    assert_offsets_hold(sentences)
    assert [(issue.code, issue.line) for issue in issues] == [
        ("offset-units", 3),
        ("several-annotations", 6),
        ("only-predictions", 7),
        ("bad-entity", 8),
        ("offset-mismatch", 8),
        ("bad-record", 9),
        ("not-read", 8),
    ]


def test_lists_of_other_tools_are_no_regions(tmp_path: Path) -> None:
    """Read as Label Studio's because somebody said so; plain texts to import there are silent."""
    entities = [{"text": "好", "category": "评价", "start": 0, "end": 1}]
    lines = [{"id": 1, "text": "好", "entities": entities}, {"id": 2, "text": "坏", "tags": ["a"]}]
    path = tmp_path / "x.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    sentences, issues = read(path, "label_studio")
    assert all(map(records.is_unlabeled, sentences))
    assert [(issue.code, issue.line, "'entities'" in issue.message) for issue in issues] == [("not-read", 1, True)]


def test_label_studio_believes_one_way_of_counting_for_a_task(tmp_path: Path) -> None:
    """哈 stands at code points 2 and 3; only UTF-16 fits both regions, code points fit the first by accident."""
    regions = [
        {"start": 3, "end": 4, "text": "哈", "labels": ["A"]},
        {"start": 5, "end": 6, "text": "们", "labels": ["A"]},
    ]
    path = tmp_path / "x.json"
    path.write_text(json.dumps([{"text": "😀好哈哈们", "label": regions}]), encoding="utf-8")
    [sentence], issues = read(path, "auto")
    assert spans(sentence) == [(2, 3, "A"), (4, 5, "A")]
    assert codes(issues) == {"offset-units": 1}


def test_label_studio_short_form() -> None:
    sentences, issues = read(SMALL / "label_studio_min.json", "auto")
    assert [(s.id, spans(s), records.is_unlabeled(s)) for s in sentences] == [
        ("1", [(3, 5, "地点")], False),
        ("2", [], False),
    ]
    assert issues == []


def test_label_studio_is_given_tasks_and_their_configuration(tmp_path: Path) -> None:
    text = '😀去"A&B"店\n二'
    sentence = Sentence("s", text, [Entity("A&B", '品牌<"x">', 3, 6), Entity("店", "场所")], "p", {"k": 1})
    bare = Sentence("b", "好", meta={"unlabeled": True})
    issues = formats.write(tmp_path / "x.json", "label_studio", [sentence, bare], OPTIONS)
    assert codes(issues) == {"no-offsets": 1}
    tasks = json.loads((tmp_path / "x.json").read_text(encoding="utf-8"))
    value = {"start": 3, "end": 6, "text": "A&B", "labels": ['品牌<"x">']}
    result = {"id": "r0", "from_name": "label", "to_name": "text", "type": "labels", "value": value}
    data = {"text": text, "sentence_id": "s", "post_id": "p"}
    assert tasks == [
        {"data": data, "meta": {"k": 1}, "annotations": [{"result": [result]}]},
        {"data": {"text": "好", "sentence_id": "b"}},
    ]
    view = ElementTree.fromstring((tmp_path / "x.xml").read_text(encoding="utf-8"))
    labels, shown = view.find("Labels"), view.find("Text")
    assert labels is not None and shown is not None  # noqa: PT018
    assert (labels.get("name"), labels.get("toName")) == (result["from_name"], result["to_name"])
    assert [label.get("value") for label in labels] == ['品牌<"x">', "场所"]
    assert (shown.get("name"), shown.get("value")) == ("text", "$text")
    formats.write(tmp_path / "y.json", "label_studio", [sentence], replace(OPTIONS, categories=("甲", "场所")))
    view = ElementTree.fromstring((tmp_path / "y.xml").read_text(encoding="utf-8"))
    assert [label.get("value") for label in view.iter("Label")] == ["甲", "场所", '品牌<"x">']


def test_predictions_are_given_to_label_studio_as_what_a_model_thinks(tmp_path: Path) -> None:
    found = records.Prediction("1", [Entity("小满", "品牌", 2, 4)], engine="tagger")
    path = tmp_path / "predictions.jsonl"
    path.write_text(records.to_line(records.prediction_to_json(found, "去喝小满")) + "\n", encoding="utf-8")
    sentences, issues = read(path, "auto")
    assert issues == []
    assert formats.write(tmp_path / "tasks.json", "label_studio", sentences, OPTIONS) == []
    (task,) = json.loads((tmp_path / "tasks.json").read_text(encoding="utf-8"))
    assert "annotations" not in task
    assert "meta" not in task
    (thought,) = task["predictions"]
    assert thought["model_version"] == "tagger"
    assert [region["value"]["labels"] for region in thought["result"]] == [["品牌"]]
    assert codes(formats.write(tmp_path / "plain.txt", "conll", sentences, OPTIONS)) == {"lost-id": 1}, (
        "no meta is lost"
    )


def test_label_studio_shows_how_sure_a_model_is_of_each_entity_and_of_the_least_sure_one(tmp_path: Path) -> None:
    pair = [Entity("小满", "品牌", 2, 4), Entity("喝", "行为", 1, 2)]
    sure = [records.with_score(entity, score) for entity, score in zip(pair, (0.75, 0.5), strict=True)]
    sentences = [
        records.tagged_sentence(records.Sentence(str(number), "去喝小满"), records.Prediction(str(number), found))
        for number, found in enumerate((sure, pair, [*sure[:1], pair[1]]))
    ]
    assert formats.write(tmp_path / "tasks.json", "label_studio", sentences, OPTIONS) == []
    tasks = json.loads((tmp_path / "tasks.json").read_text(encoding="utf-8"))
    assert [task["predictions"][0].get("score") for task in tasks] == [0.5, None, 0.75]
    assert [region["score"] for region in tasks[0]["predictions"][0]["result"]] == [0.75, 0.5]
    lost = formats.write(tmp_path / "ann", "brat", sentences, OPTIONS)
    assert codes(lost)["lost-score"] == 1


def test_only_what_a_model_thinks_is_given_to_label_studio_with_scores(tmp_path: Path) -> None:
    sure = records.with_score(Entity("小满", "品牌", 2, 4), 0.75)
    sentences = [records.Sentence("1", "去喝小满", [sure]), records.Sentence("2", "去喝小满", [Entity(*sure)])]
    lost = formats.write(tmp_path / "tasks.json", "label_studio", sentences, OPTIONS)
    tasks = json.loads((tmp_path / "tasks.json").read_text(encoding="utf-8"))
    regions = [region for task in tasks for region in task["annotations"][0]["result"]]
    assert len(regions) == 2
    assert not any("score" in region for region in regions)
    assert [(issue.code, issue.id) for issue in lost] == [("lost-score", "1")]


@pytest.mark.parametrize(("key", "score"), [("annotations", None), ("predictions", 0.42)])
def test_what_a_person_accepted_in_label_studio_has_no_confidence(
    tmp_path: Path, key: str, score: float | None
) -> None:
    value = {"start": 2, "end": 4, "text": "小满", "labels": ["品牌"]}
    result = [{"type": "labels", "value": value, "score": 0.42, "origin": "prediction"}]
    path = tmp_path / "tasks.json"
    path.write_text(json.dumps([{"id": 1, "data": {"text": "去喝小满"}, key: [{"result": result}]}]), encoding="utf-8")
    ((sentence,), _) = read(path, "label_studio")
    assert [(entity.text, entity.score) for entity in sentence.entities] == [("小满", score)]


def test_doccano() -> None:
    sentences, issues = read(SMALL / "doccano.jsonl", "auto")
    assert [(s.id, s.text, spans(s)) for s in sentences] == [
        ("1", "😀我爱北京", [(1, 2, "人"), (3, 5, "地点")]),
        ("2", "我爱北京", [(2, 4, "地点")]),
        ("3", "我爱北京", [(2, 4, "地点")]),
        ("4", "没有", []),
        ("5", "空的", []),
        ("6", "坏", []),
    ]
    assert [s.id for s in sentences if records.is_unlabeled(s)] == ["4"]
    assert sorted((issue.code, issue.line) for issue in issues) == [
        ("bad-entity", 6),
        ("bad-entity", 6),
        ("bad-entity", 6),
        ("empty-entity", 6),
        ("not-read", 2),
        ("not-read", 3),
        ("not-read", 3),
        ("offset-range", 6),
    ]


def test_a_folder_of_brat(tmp_path: Path) -> None:
    folder = documents(
        tmp_path,
        b_txt="我爱北京\n\n😀去上\n海吧\r\n三\n",
        b_ann="T1\t地点 2 4\t北京\nT2 broken\nT3\t地点 8 9;10 11\t上 海\nR1\tx Arg1:T1 Arg2:T3\n"
        "R2\tx Arg1:T1 Arg2:T3\n#1\tAnnotatorNotes T1\t好\n*\tEquiv T1 T3\nT4\t断 0 1;2 4\t我 北京\nT5\t错 0 1\t你\n"
        "T6\t远 90 91\t好\nT7\t空 1 1\t\nT8\t字 0 1\n",
        a_txt="没有标注\n",
        c_ann="T1\tA 0 1\t好\n",
    )
    sentences, issues = read(folder, "auto")
    assert [(s.id, s.post_id, s.text, spans(s)) for s in sentences] == [
        ("a", None, "没有标注", []),
        ("b-0", "b", "我爱北京", [(0, 1, "字"), (2, 4, "地点"), (None, None, "错"), (None, None, "远")]),
        ("b-1", "b", "😀去上\n海吧", [(2, 5, "地点")]),
        ("b-2", "b", "三", []),
    ]
    assert [records.is_unlabeled(s) for s in sentences] == [True, False, False, False]
    assert sentences[2].entities[0].text == "上\n海"
    assert [(Path(issue.file).name, issue.line, issue.code) for issue in issues] == [
        ("b.ann", 2, "bad-entity"),
        ("b.ann", 8, "discontinuous"),
        ("b.ann", 9, "offset-mismatch"),
        ("b.ann", 10, "offset-range"),
        ("b.ann", 11, "empty-entity"),
        ("b.ann", 4, "not-read"),
        ("b.ann", 6, "not-read"),
        ("b.ann", 7, "not-read"),
        ("c.ann", 0, "no-text"),
    ]


@pytest.mark.parametrize("name", ["b.txt", "b.ann"])
def test_one_document_of_brat(tmp_path: Path, name: str) -> None:
    folder = documents(tmp_path, b_txt="我爱北京", b_ann="T1\t地点 2 4\t北京\n")
    assert formats.recognise(folder / name)[0] == "brat"
    [sentence], issues = read(folder / name, "auto")
    assert (sentence.id, spans(sentence), issues) == ("b", [(2, 4, "地点")], [])


@pytest.mark.parametrize(("mark", "end"), [(0, 1), (0, 2), (1, 1), (1, 2)])
def test_brat_counts_a_byte_order_mark_and_line_breaks_in_four_ways(tmp_path: Path, mark: int, end: int) -> None:
    """`mark` and `end`: the characters that offsets count for the mark, and for `\\r\\n`."""
    start = mark + 4 + end + 1
    lines = f"T1\t地点 {mark + 2} {mark + 4}\t北京\nT2\t地点 {start} {start + 2}\t上海\n"
    folder = documents(tmp_path, b_txt="\ufeff我爱北京\r\n去上海\r\n", b_ann=lines)
    sentences, issues = read(folder, "brat")
    assert [sentence.text for sentence in sentences] == [mark * "\ufeff" + "我爱北京", "去上海"]
    assert [spans(sentence) for sentence in sentences] == [[(mark + 2, mark + 4, "地点")], [(1, 3, "地点")]]
    assert codes(issues) == ({} if (mark, end) == (1, 2) else {"offset-units": 1})


def test_mentions_of_brat_decide_where_its_sentences_end(tmp_path: Path) -> None:
    """A chain of mentions joins lines, one that ends with a break keeps it, one of another line stays there."""
    folder = documents(
        tmp_path,
        b_txt="甲乙\n丙丁\n戊己\n庚辛\n壬癸\n",
        b_ann="T1\t链 1 2;3 4\t乙 丙\nT2\t链 4 5;6 7\t丁 戊\nT3\t末 10 12\nT4\t散 90 92\t壬癸\n",
    )
    sentences, _ = read(folder, "brat")
    assert [(s.text, spans(s)) for s in sentences] == [
        ("甲乙\n丙丁\n戊己", [(1, 4, "链"), (4, 7, "链")]),
        ("庚辛\n", [(1, 3, "末")]),
        ("壬癸", [(None, None, "散")]),
    ]


def test_a_remark_behind_the_words_of_a_mention_of_brat_does_no_harm(tmp_path: Path) -> None:
    folder = documents(tmp_path, b_txt="我爱北京", b_ann="T1\t地点 2 4\t北京 见注\nT2\t错 0 1\t你们\n")
    [sentence], issues = read(folder, "brat")
    assert [entity for entity in sentence.entities if entity.start is not None] == [Entity("北京", "地点", 2, 4)]
    assert codes(issues) == {"offset-mismatch": 1}


def test_documents_of_brat_never_share_a_name_or_a_post(tmp_path: Path) -> None:
    """Names that differ only by case are one file on some machines; a post may be called like a sentence's number."""
    sentences = [
        Sentence("Doc", "甲", []),
        Sentence("doc", "乙", []),
        Sentence("x", "丙", [], "0"),
        Sentence("y", "丁", [], "single"),
    ]
    issues = formats.write(tmp_path / "out", "brat", sentences, OPTIONS)
    texts = {path.name: path.read_text(encoding="utf-8") for path in (tmp_path / "out").glob("*.txt")}
    assert texts == {"Doc.txt": "甲\n", "document-1.txt": "乙\n", "0.txt": "丙\n", "single.txt": "丁\n"}
    assert codes(issues) == {"renamed": 1}


def test_brat_is_given_a_document_for_each_post(tmp_path: Path) -> None:
    sentences = [
        Sentence("1", "我爱北京", [Entity("北京", "地点 x", 2, 4)], "p1"),
        Sentence("2", "上\t海\n好", [Entity("上\t海", "地点", 0, 3), Entity("海\n", "地点", 2, 4)]),
        Sentence("3", "😀好店", [Entity("店", "场所", 2, 3), Entity("好", "场所")], "p1"),
        Sentence("../4", "没有", meta={"unlabeled": True}),
    ]
    folder = tmp_path / "out"
    issues = formats.write(folder, "brat", sentences, OPTIONS)
    assert sorted(path.name for path in folder.iterdir()) == ["2.ann", "2.txt", "document-2.txt", "p1.ann", "p1.txt"]
    assert (folder / "p1.txt").read_text(encoding="utf-8") == "我爱北京\n😀好店\n"
    assert (folder / "p1.ann").read_text(encoding="utf-8") == "T1\t地点_x 2 4\t北京\nT2\t场所 7 8\t店\n"
    assert (folder / "2.ann").read_text(encoding="utf-8") == "T1\t地点 0 1;2 3\t上 海\n"
    assert codes(issues) == {"no-offsets": 1, "split-lines": 1, "line-break": 1, "renamed": 1, "category-renamed": 1}
    found, _ = read(folder, "auto")
    assert spans(found[0]) == [(0, 3, "地点")]


def test_a_document_of_brat_with_labels_leaves_out_what_has_none(tmp_path: Path) -> None:
    """Beside an annotations file it would be read back as a sentence without entities."""
    sentences = [Sentence("1", "甲", [], "p"), Sentence("2", "乙", [], "p", {"unlabeled": True})]
    issues = formats.write(tmp_path / "out", "brat", sentences, OPTIONS)
    assert (tmp_path / "out" / "p.txt").read_text(encoding="utf-8") == "甲\n"
    assert codes(issues) == {"unlabeled": 1}


def test_brat_never_writes_over_what_is_there(tmp_path: Path) -> None:
    folder = documents(tmp_path, mine_md="keep")
    with pytest.raises(UserError, match="exists already"):
        formats.write(folder, "brat", [Sentence("1", "好")], OPTIONS)
    assert [path.name for path in folder.iterdir()] == ["mine.md"]


def test_what_is_no_folder_of_brat_is_told(tmp_path: Path) -> None:
    folder = documents(tmp_path, a_txt="好")
    with pytest.raises(UserError, match="ann"):
        formats.recognise(folder)
    (folder / "a.txt").unlink()
    with pytest.raises(UserError, match="no \\.txt"):
        read(folder, "brat")


def test_a_folder_of_brat_is_a_split(tmp_path: Path) -> None:
    documents(tmp_path, a_txt="我爱北京\n好\n", a_ann="T1\t地点 2 4\t北京\n")
    data = replace(shipped("own"), root=str(tmp_path), files={"train": ["documents"]})
    corpus = sources.load_corpus(data, None)
    assert [(s.id, s.post_id) for s in corpus.splits["train"]] == [("a-0", "a"), ("a-1", "a")]
    digest = corpus.digests["documents"]
    (tmp_path / "documents" / "a.ann").write_text("", encoding="utf-8")
    assert sources.load_corpus(data, None).digests["documents"] != digest


@pytest.mark.parametrize(
    ("text", "format", "why"),
    [
        ('{"text": "好"}\n{"text": "好", "label": {"A": {"好": [[0, 0]]}}}', "cluener", "`label` is"),
        ('{"text": "好"}\n{"text": "好", "label": [[0, 1, "A"]]}', "doccano", "`label`"),
        ('{"text": "好", "entities": []}\n{"text": "好", "entities": [{"start_offset": 0}]}', "doccano", "`entities`"),
        ('{"text": "好", "entities": []}\n{"text": "好", "entities": [{"start": 0}]}', "jsonl", "`entities`"),
        ('[{"text": "好", "labels": [[0, 1, "A"]]}]', "doccano", "JSON list"),
        ('[{"data": {"text": "好"}}]', "label_studio", "`data`"),
        ('{"data": {"text": "好"}}', "label_studio", "`data`"),
        ('[{"text": "好", "x": [{"start": 0, "end": 1, "labels": ["A"]}]}]', "label_studio", "`x`, as in JSON_MIN"),
        ('[{"id": 1, "annotations": [{"res', "label_studio", "`annotations`"),
        ('[{"text": "好"}, {"text": "好", "entities": [{"start_idx": 0}]}]', "cmeee", "`entities`"),
        ("T1\tA 0 1\t好\n", "brat", "T1<tab>"),
    ],
)
def test_detection_says_what_and_why(tmp_path: Path, text: str, format: str, why: str) -> None:
    (tmp_path / "x").write_text(text, encoding="utf-8")
    found, reason = formats.recognise(tmp_path / "x")
    assert (found, why in reason) == (format, True), reason


def test_what_was_detected_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", logger="omniner"):
        read(SMALL / "doccano.jsonl", "auto")
    assert "read as doccano (JSON lines with `label`" in caplog.text
