"""Kinds of input as tools and people write them, and what came out: read whole, with issues, or refused by name.

Each kind is the smallest file that shows it. The same sentence stands in most of them, so that a row says only what
differs: `王芳去了杭州`, with 王芳 as PER and 杭州 as LOC.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.helpers.reading import assert_offsets_hold, codes

from omniner.corpus import formats, sources
from omniner.corpus.formats import ReadOptions, label_studio
from omniner.errors import UserError
from omniner.records import Issue, Sentence, is_unlabeled

TEXT = "王芳去了杭州"
MENTIONS = [("王芳", "PER", 0), ("杭州", "LOC", 4)]
PLACES = [[0, 2, "PER"], [4, 6, "LOC"]]
TAGS = ["B-PER", "I-PER", "O", "O", "B-LOC", "I-LOC"]


class Kind(NamedTuple):
    """A file and what came out of it: the format, the mentions of its first sentence, and the issues."""

    content: str
    format: str
    mentions: list[tuple[str, str, int | None]] = MENTIONS
    issues: dict[str, int] = {}  # noqa: RUF012
    sentences: int = 1
    texts: list[str] = [TEXT]  # noqa: RUF012


def column(tags: str, row: str = "{token} {tag}", end: str = "\n", text: str = TEXT) -> str:
    """A token and its tag a line."""
    pairs = enumerate(zip(text, tags.split(), strict=True), 1)
    return end.join(row.format(token=token, tag=tag, number=number) for number, (token, tag) in pairs) + end + end


def lines(*items: Any) -> str:
    return "".join(json.dumps(item, ensure_ascii=False) + "\n" for item in items)


def entities(written: Callable[[str, str, int], dict[str, Any]]) -> str:
    """A line whose entities are written in some way."""
    return lines({"text": TEXT, "entities": [written(*mention) for mention in MENTIONS]})


def labels_first(make: Callable[[str, str, int], dict[str, Any]]) -> str:
    return lines({"annotations": [make(*mention) for mention in MENTIONS], "content": TEXT})


def renamed(*names: str) -> list[tuple[str, str, int | None]]:
    return [(text, name, start) for (text, _, start), name in zip(MENTIONS, names, strict=True)]


BIO = " ".join(TAGS)
REGIONS = [{"start": s, "end": e, "text": TEXT[s:e], "labels": [c]} for s, e, c in PLACES]
RESULT = [{"from_name": "l", "to_name": "t", "type": "labels", "value": region} for region in REGIONS]
TASK = {"id": 7, "data": {"text": TEXT}, "annotations": [{"completed_by": 1, "result": RESULT}]}
HYPER = [{**one, "type": "hypertextlabels", "value": {"globalOffsets": {"start": s, "end": e}, "start": 0, "end": 1,
          "hypertextlabels": [c]}} for one, (s, e, c) in zip(RESULT, PLACES, strict=True)]  # fmt: skip
BEHIND_4 = [{"type": "hypertextlabels", "value": {"globalOffsets": {"start": 4 + s, "end": 4 + e}, "text": TEXT[s:e],
             "hypertextlabels": [c]}} for s, e, c in PLACES]  # fmt: skip
OFFSETS = [{"id": 1, "label": c, "start_offset": s, "end_offset": e} for s, e, c in PLACES]
LS_CELL = json.dumps(REGIONS, ensure_ascii=False).replace('"', '""')
CELL = json.dumps(PLACES).replace('"', '""')
CMEEE = [{"start_idx": s, "end_idx": e - 1, "type": c, "entity": TEXT[s:e]} for s, e, c in PLACES]
OWN = {"text": TEXT, "entities": [{"text": w, "category": c, "start": s, "end": s + 2} for w, c, s in MENTIONS]}
WORDS = {"placed-by-words": 1}
EMOJI = "😀😀王芳去了杭州"

READ = {
    # columns
    "bio": Kind(column(BIO), "conll"),
    "bioes": Kind(column("B-PER E-PER O O B-LOC E-LOC"), "conll"),
    "bmes": Kind(column("B-PER M-PER E-PER O O S-LOC"), "conll", [("王芳去", "PER", 0), ("州", "LOC", 5)]),
    "bmewo": Kind(column("B-PER M-PER E-PER O O W-LOC"), "conll", [("王芳去", "PER", 0), ("州", "LOC", 5)]),
    "bilou": Kind(column("B-PER L-PER O O O U-LOC"), "conll", [("王芳", "PER", 0), ("州", "LOC", 5)]),
    "iob1": Kind(
        column("I-PER I-PER O I-LOC B-LOC I-LOC") * 3,
        "conll",
        [("王芳", "PER", 0), ("了", "LOC", 3), ("杭州", "LOC", 4)],
        {},
        3,
    ),
    "io": Kind(column("PER PER O O LOC LOC"), "conll"),
    "io, nearly all O": Kind("字 O\n" * 60 + "\n" + column("PER PER O O LOC LOC"), "conll", [], {}, 2, ["字" * 60]),
    "letters alone": Kind(column("B I O O B I"), "conll", renamed("ENTITY", "ENTITY")),
    "lower case": Kind(column(BIO.lower()), "conll", renamed("per", "loc")),
    "suffixes": Kind(column("PER-B PER-I O O LOC-B LOC-I"), "conll"),
    "underscores": Kind(column(BIO.replace("-", "_")), "conll"),
    "tags first": Kind(column(BIO, "{tag}\t{token}"), "conll"),
    "commas": Kind(column(BIO, "{token},{tag}"), "conll"),
    "trailing tabs": Kind(column(BIO, "{token}\t{tag}\t"), "conll"),
    "trailing blanks": Kind(column(BIO, "{token} {tag} "), "conll"),
    "several blanks": Kind(column(BIO, "{token}   {tag}"), "conll"),
    "tab and blank": Kind(column(BIO, "{token}\t {tag}"), "conll"),
    "tabs here, blanks there": Kind(column(BIO, "{token}\t{tag}") * 12 + column(BIO), "conll", sentences=13),
    "CR LF": Kind(column(BIO, end="\r\n"), "conll"),
    "CR": Kind(column(BIO, end="\r"), "conll"),
    "byte order mark": Kind("\ufeff" + column(BIO), "conll"),
    "blank lines with tabs": Kind(column(BIO) + "\t\n \n" + column(BIO), "conll", sentences=2),
    "comments": Kind("# id s1\tdomain=x\n" + column(BIO, "{token} _ _ {tag}"), "conll"),
    "comments in the middle": Kind(
        column(BIO, "{token}\t{tag}") + "# 第二\n" + column(BIO, "{token}\t{tag}"), "conll", sentences=2
    ),
    "a token that is #": Kind(
        "# O\n" + column(BIO), "conll", [("王芳", "PER", 1), ("杭州", "LOC", 5)], {}, 1, ["#" + TEXT]
    ),
    "CoNLL-2003": Kind("-DOCSTART- -X- O O\n\n" + column(BIO, "{token} NN B-NP {tag}"), "conll"),
    "CoNLL-U": Kind(
        "# sent_id = s1\n# text = x\n" + column(BIO, "{number}\t{token}\t_\tX\t_\t_\t0\tx\t_\t{tag}"), "conll"
    ),
    "Universal NER": Kind("# text = x\n" + column(BIO, "{number}\t{token}\t{tag}\t-\tann"), "conll"),
    "Label Studio's columns": Kind(
        "-DOCSTART- -X- O\n"
        + column("B-地理_名 I-地理_名 O O B-L I-L", "{token} -X- _ {tag}").replace("理_名", "理 名"),
        "conll",
        renamed("地理 名", "L"),
    ),
    "bars": Kind(column(BIO, "{token}|{tag}"), "conll"),
    "numbers of sentences before": Kind(column(BIO, "0,{token},{tag}"), "conll"),
    "numbered rows, one of nothing but its number": Kind(
        2 * (column(BIO, "{number}\t{token}\t{tag}").strip() + "\n") + "7\n",
        "conll",
        [*MENTIONS, ("王芳", "PER", 6), ("杭州", "LOC", 10)],
        {"empty-token": 1},
        texts=[2 * TEXT],
    ),
    "one character a line, with comments": Kind(
        "# id = a\n" + "\n".join(TEXT + "#") + "\n\n" + "\n".join(TEXT) + "\n",
        "conll",
        [],
        sentences=2,
        texts=[TEXT + "#"],
    ),
    "one character a line": Kind("".join(f"{token}\n" for token in TEXT), "conll", []),
    "WebAnno": Kind(
        "#FORMAT=WebAnno TSV 3.3\n#T_SP=webanno.custom.NamedEntity|identifier|value\n\n\n#Text=王芳去了杭州\n"
        "1-1\t0-1\t王\t*[1]\tPER[1]\t\n1-2\t1-2\t芳\t*[1]\tPER[1]\t\n1-3\t2-4\t去了\t_\t_\t\n"
        "1-4\t4-6\t杭州\t*\tLOC\t\n",
        "webanno",
        issues={"unknown-key": 1},
    ),
    "WebAnno, blanks before the first token": Kind(
        "#FORMAT=WebAnno TSV 3.3\n#T_SP=webanno.custom.NamedEntity|value\n\n\n#Text=\u3000 王芳去了杭州\n"
        "1-1\t9-11\t王芳\tPER\t\n1-2\t11-13\t去了\t_\t\n1-3\t13-15\t杭州\tLOC\t\n",
        "webanno",
        [("王芳", "PER", 2), ("杭州", "LOC", 6)],
        texts=["\u3000 王芳去了杭州"],
    ),
    "sentences and tags": Kind(f"{TEXT}\t{BIO}\n王芳\tB-PER I-PER\n", "tagged_lines", sentences=2),
    "words and tags": Kind("王芳 去 了 杭州\tB-PER O O B-LOC\n" * 2, "tagged_lines", sentences=2),
    "PaddleNLP's lines": Kind("text_a\tlabel\n" + "\x02".join(TEXT) + "\t" + "\x02".join(TAGS) + "\n", "tagged_lines"),
    "Kaggle's table": Kind(
        "Sentence #,Word,POS,Tag\nSentence: 1,王芳,NN,B-PER\n,去,V,O\n,了,V,O\n,杭州,NN,B-LOC\n",
        "word_table",
        issues={"unknown-key": 1},
    ),
    "Kaggle's table, the first word of a sentence is missing": Kind(
        "Sentence #,Word,Tag\n1,王芳去了,B-PER\n,杭州,B-LOC\n2,,O\n,李雷,B-PER\n3,,O\n4,好,O\n",
        "word_table",
        [("王芳去了", "PER", 0), ("杭州", "LOC", 4)],
        {"empty-token": 2},
        sentences=3,
        texts=[TEXT, "李雷", "好"],
    ),
    "rows of commas between sentences, a word is missing": Kind(
        "word,label\n" + "".join(f"{t},{g}\n" for t, g in zip(TEXT, TAGS, strict=True)) + ",\n李,B-PER\n,O\n雷,I-PER\n",
        "word_table",
        issues={"empty-token": 1},
        sentences=2,
        texts=[TEXT, "李雷"],
    ),
    "words and labels": Kind(
        "sentence_id,words,labels\n" + "".join(f"0,{t},{g}\n" for t, g in zip(TEXT, TAGS, strict=True)), "word_table"
    ),
    "an entity a row": Kind(
        f"id,text,entity,category,start,end\n1,{TEXT},王芳,PER,0,2\n2,没有,,,,\n1,{TEXT},杭州,LOC,4,6\n",
        "entity_table",
        sentences=2,
        texts=[TEXT, "没有"],
    ),
    "an entity a row, merged cells, ends inclusive": Kind(
        f"编号,句子,实体,类别,起始,结束\n1,{TEXT},王芳,PER,0,1\n,,杭州,LOC,4,5\n",
        "entity_table",
        issues={"offset-units": 1},
    ),
    "an entity a row, with the index of pandas": Kind(
        f",id,text,label,start,end\n0,1,{TEXT},PER,0,2\n1,1,{TEXT},LOC,4,6\n", "entity_table"
    ),
    "an entity a row, with the index of pandas and words alone": Kind(
        f",text,entity,label\n0,{TEXT},王芳,PER\n1,{TEXT},杭州,LOC\n", "entity_table"
    ),
    "an entity a row, only the text merged": Kind(
        f"id,text,entity,label\n1,{TEXT},王芳,PER\n1,,杭州,LOC\n2,好,,\n",
        "entity_table",
        sentences=2,
        texts=[TEXT, "好"],
    ),
    "an entity a row, only the id merged": Kind(
        f"id,text,entity,label\n1,{TEXT},王芳,PER\n,{TEXT},杭州,LOC\n2,{TEXT},,\n",
        "entity_table",
        sentences=2,
        texts=[TEXT, TEXT],
    ),
    "an entity a row, two posts with one text": Kind(
        f"note_id,text,entity,label\nn1,{TEXT},王芳,PER\nn1,{TEXT},杭州,LOC\nn2,{TEXT},,\n",
        "entity_table",
        sentences=2,
        texts=[TEXT, TEXT],
    ),
    "an entity a row, its words called text": Kind(
        f"sentence,text,label,start,end\n{TEXT},王芳,PER,0,2\n{TEXT},杭州,LOC,4,6\n", "entity_table"
    ),
    "an entity a row, words alone and a column of notes": Kind(
        f"sentence\tentity\tlabel\tnote\n{TEXT}\t王芳\tPER\t\n{TEXT}\t杭州\tLOC\tsure\n{TEXT}\t杭\t\t\n",
        "entity_table",
        issues={"unknown-key": 1, "bad-entity": 1},
    ),
    "an entity a row, numbered, offsets alone, as pandas writes them": Kind(
        f"id,text,label,start,end\n0,{TEXT},PER,0.0,2.0\n1,{TEXT},LOC,4.0,6.0\n2,好,,,\n",
        "entity_table",
        issues={"row-ids": 1},
        sentences=2,
        texts=[TEXT, "好"],
    ),
    # JSON
    "triples": Kind(lines({"text": TEXT, "entities": PLACES}), "jsonl"),
    "under a key, with places of the sentences": Kind(
        json.dumps(
            {
                "data": [
                    {"text": TEXT, "begin": 5, "entities": [{"start": s, "end": e, "label": c} for s, e, c in PLACES]},
                    {"text": "好", "begin": 9, "entities": [{"start": 0, "end": 1, "label": "LOC"}]},
                ]
            }
        ),
        "jsonl",
        sentences=2,
        issues={"unknown-key": 1},
    ),
    "other keys": Kind(
        lines({"text": TEXT, "entities": [{"start": s, "end": e, "label": c} for s, e, c in PLACES]}), "jsonl"
    ),
    "a JSON list": Kind(
        json.dumps([{"text": TEXT, "entities": [{"text": "王芳", "category": "PER", "start": 0, "end": 2}]}]),
        "jsonl",
        MENTIONS[:1],
    ),
    "an object of several lines": Kind(json.dumps({"text": TEXT, "entities": PLACES}, indent=1) + "\n", "jsonl"),
    "inclusive ends, without surfaces": Kind(
        lines(
            {
                "text": TEXT,
                "entities": [
                    {"s": 0, "start": 0, "end": 1, "type": "PER"},
                    {"start": 4, "end": 5, "type": "LOC"},
                    {"start": 2, "end": 2, "type": "V"},
                ],
            }
        ),
        "jsonl",
        [MENTIONS[0], ("去", "V", 2), MENTIONS[1]],
        {"offset-units": 1},
    ),
    "entity_list": Kind(
        lines(
            {
                "text": TEXT,
                "entity_list": [
                    {"entity_index": {"begin": s, "end": e}, "entity_type": c, "entity": TEXT[s:e]}
                    for s, e, c in PLACES
                ],
            }
        ),
        "jsonl",
    ),
    "Dataturks": Kind(
        lines(
            {
                "content": TEXT,
                "annotation": [
                    {"label": [c], "points": [{"start": s, "end": e - 1, "text": TEXT[s:e]}]} for s, e, c in PLACES
                ],
            }
        ),
        "jsonl",
        issues={"offset-units": 1},
    ),
    "CMeEE lines": Kind(lines({"text": TEXT, "entities": CMEEE}), "cmeee"),
    "CMeEE list": Kind(json.dumps([{"text": TEXT, "entities": CMEEE}]), "cmeee"),
    "CHIP, a text that begins with a bracket": Kind(
        f"[{TEXT}|||1    2    PER|||5    6    LOC|||\n",
        "cmeee",
        [("王芳", "PER", 1), ("杭州", "LOC", 5)],
        texts=["[" + TEXT],
    ),
    "CHIP": Kind(f"{TEXT}|||0    1    PER|||4    5    LOC|||\n", "cmeee"),
    "CLUENER": Kind(lines({"text": TEXT, "label": {"PER": {"王芳": [[0, 1]]}, "LOC": {"杭州": [[4, 5]]}}}), "cluener"),
    "CLUENER as a list": Kind(
        json.dumps([{"text": TEXT, "label": {"PER": {"王芳": [[0, 1]]}, "LOC": {"杭州": [[4, 5]]}}}]), "cluener"
    ),
    "CLUENER, first label empty": Kind(
        lines({"text": "好", "label": []}, {"text": TEXT, "label": {"PER": {"王芳": [[0, 1]]}}}),
        "cluener",
        [],
        {},
        2,
        ["好", TEXT],
    ),
    "spaCy": Kind(json.dumps([[TEXT, {"entities": PLACES}]]), "spacy"),
    "spaCy lines": Kind(lines([TEXT, {"entities": PLACES}], [TEXT, {"entities": []}]), "spacy", sentences=2),
    "ner-annotator": Kind(
        json.dumps({"classes": ["PER"], "annotations": [[TEXT, {"entities": PLACES}], None]}),
        "spacy",
        issues={"not-read": 1},
    ),
    "Prodigy": Kind(
        lines(
            {
                "text": TEXT,
                "spans": [{"start": s, "end": e, "label": c} for s, e, c in PLACES],
                "answer": "accept",
                "_input_hash": 1,
            },
            {"text": "坏", "spans": [], "answer": "reject", "_input_hash": 2},
        ),
        "prodigy",
        issues={"not-read": 1},
    ),
    "GLiNER": Kind(json.dumps([{"tokenized_text": [*TEXT], "ner": [[0, 1, "PER"], [4, 5, "LOC"]]}]), "gliner"),
    "GLiNER, mentions of one token": Kind(
        json.dumps([{"tokenized_text": ["王芳", "去了", "杭州"], "ner": [[0, 0, "PER"], [2, 2, "LOC"]]}]), "gliner"
    ),
    "UIE": Kind(
        lines(
            {"content": TEXT, "result_list": [{"text": "王芳", "start": 0, "end": 2}], "prompt": "PER"},
            {"content": TEXT, "result_list": [{"text": "杭州", "start": 4, "end": 6}], "prompt": "LOC"},
            {"content": TEXT, "result_list": [{"text": "杭州", "start": 4, "end": 6}], "prompt": "王芳的去处"},
        ),
        "uie",
        issues={"not-read": 1},
    ),
    "W2NER": Kind(
        json.dumps(
            [
                {
                    "sentence": [*TEXT],
                    "ner": [
                        {"index": [0, 1], "type": "PER"},
                        {"index": [4, 5], "type": "LOC"},
                        {"index": [0, 2], "type": "X"},
                    ],
                    "word": [[0, 1]],
                }
            ]
        ),
        "w2ner",
        issues={"discontinuous": 1},
    ),
    "Hugging Face": Kind(lines({"id": "0", "tokens": [*TEXT], "ner_tags": TAGS}), "hf_tokens"),
    "tags in one text": Kind(lines({"text": " ".join(TEXT), "labels": BIO}), "hf_tokens"),
    "offsets as texts": Kind(
        lines({"text": TEXT, "entities": [{"start": "0", "end": "2", "type": "PER"}]}), "jsonl", MENTIONS[:1]
    ),
    "spaCy's documents": Kind(
        lines({"text": TEXT, "ents": [{"start": s, "end": e, "label": c} for s, e, c in PLACES]}), "jsonl"
    ),
    "Label Studio, choices alone": Kind(
        json.dumps(
            [{"id": 7, "data": {"text": TEXT}, "annotations": [{"result": [{"type": "choices", "value": {}}]}]}]
        ),
        "label_studio",
        [],
        {"not-read": 1},
    ),
    "prose with emoticons": Kind(
        "[哈哈]今天去杭州 [太阳] @王芳: 好\nBob/Carol are OK and/or fine.\n", "text", [], {}, 2, []
    ),
    "text and tags": Kind(lines({"text": TEXT, "labels": TAGS}), "hf_tokens"),
    "doccano, data": Kind(lines({"id": 1, "data": TEXT, "label": PLACES}), "doccano"),
    "doccano, first empty": Kind(
        lines({"id": 2, "data": "好", "label": []}, {"id": 1, "data": TEXT, "label": PLACES}),
        "doccano",
        [],
        {},
        2,
        ["好", TEXT],
    ),
    "doccano, labels": Kind(lines({"id": 1, "text": TEXT, "labels": PLACES, "annotation_approver": None}), "doccano"),
    "doccano, annotations": Kind(lines({"id": 1, "text": TEXT, "annotations": OFFSETS}), "doccano"),
    "doccano, relations": Kind(
        lines({"id": 1, "text": TEXT, "entities": OFFSETS, "relations": [1], "Comments": []}),
        "doccano",
        issues={"not-read": 1},
    ),
    "doccano, table": Kind(f'id,data,label\n1,{TEXT},"{CELL}"\n', "doccano"),
    "doccano, UTF-16": Kind(
        lines({"id": 1, "text": EMOJI, "label": [[4, 6, "PER"], [8, 10, "LOC"]]}),
        "doccano",
        [("王芳", "PER", 2), ("杭州", "LOC", 6)],
        {"offset-units": 1},
        1,
        [EMOJI],
    ),
    "doccano, either unit": Kind(
        lines({"id": 1, "text": EMOJI, "label": [[4, 6, "PER"]]}),
        "doccano",
        [("去了", "PER", 4)],
        {"offset-units-open": 1},
        1,
        [EMOJI],
    ),
    "Label Studio": Kind(json.dumps([TASK]), "label_studio"),
    "Label Studio, short": Kind(
        json.dumps([{"id": 7, "text": TEXT, "label": REGIONS, "annotator": 1}]), "label_studio"
    ),
    "Label Studio, other names": Kind(
        json.dumps([{"id": 7, "data": {"review": TEXT, "author": "李雷"}, "annotations": TASK["annotations"]}]),
        "label_studio",
    ),
    "Label Studio, hypertext": Kind(
        json.dumps([{"id": 7, "data": {"text": f"<p>{TEXT}</p>"}, "annotations": [{"result": HYPER}]}]), "label_studio"
    ),
    "Label Studio, hypertext with character references": Kind(
        json.dumps([{"data": {"text": f"<p>&lt;&amp;&gt;&nbsp;{TEXT}</p>"}, "annotations": [{"result": BEHIND_4}]}]),
        "label_studio",
        [("王芳", "PER", 4), ("杭州", "LOC", 8)],
        texts=[f"<&>\xa0{TEXT}"],
    ),
    "Label Studio, table": Kind(
        f'annotation_id,annotator,id,label,lead_time,text\n3,1,7,"{LS_CELL}",2.5,{TEXT}\n', "label_studio"
    ),
    "Label Studio, tabs": Kind(
        f'annotation_id\tannotator\tid\tlabel\tlead_time\ttext\n3\t1\t7\t"{LS_CELL}"\t2.5\t{TEXT}\n', "label_studio"
    ),
    "official table": Kind(
        'note_id,sentence,label\nn,王芳去了杭州,"[{""text"": ""王芳"", ""labels"": [""PER""]}]"\n',
        "omniner_csv",
        MENTIONS[:1],
    ),
    "alpaca, objects": Kind(
        json.dumps(
            [
                {
                    "instruction": "找",
                    "input": TEXT,
                    "output": json.dumps([{"entity_text": "王芳", "entity_label": "PER"}]),
                }
            ]
        ),
        "alpaca",
        MENTIONS[:1],
    ),
    "alpaca, a list": Kind(
        json.dumps([{"instruction": "找", "input": TEXT, "output": [["王芳", "PER"]]}]), "alpaca", MENTIONS[:1]
    ),
    "pairs": Kind(lines({"text": TEXT, "entities": [[w, c] for w, c, _ in MENTIONS]}), "jsonl", MENTIONS, WORDS),
    "pairs, turned": Kind(
        lines({"text": TEXT, "spans": [[c, w] for w, c, _ in MENTIONS]}),
        "jsonl",
        MENTIONS,
        {**WORDS, "turned-pairs": 1},
    ),
    "entities by category": Kind(
        lines({"text": TEXT, "entities": {c: [w] for w, c, _ in MENTIONS}}, {"text": "没有", "entities": {}}),
        "jsonl",
        MENTIONS,
        WORDS,
        2,
    ),
    "a pair that is not there": Kind(
        lines({"text": TEXT, "entities": [["上海", "LOC"], ["王芳", "PER"]]}),
        "jsonl",
        [("上海", "LOC", None), ("王芳", "PER", 0)],
        {**WORDS, "unaligned": 1},
    ),
    "lengths": Kind(entities(lambda w, c, s: {"text": w, "category": c, "offset": s, "length": 2}), "jsonl"),
    "start_index": Kind(
        entities(lambda w, c, s: {"id": 0, "entity": w, "type": c, "start_index": s, "end_index": s + 2}), "jsonl"
    ),
    "Rasa": Kind(entities(lambda w, c, s: {"start": s, "end": s + 2, "value": w, "entity": c}), "jsonl"),
    "places in a list": Kind(entities(lambda w, c, s: {"name": w, "types": [c], "spans": [[s, s + 2]]}), "jsonl"),
    "places in words": Kind(
        entities(lambda w, c, s: {"text": w, "label": c, "where": f"{s}-{s + 2}"}),
        "jsonl",
        [(w, c, None) for w, c, _ in MENTIONS],
        {"unknown-offsets": 2},
    ),
    "an empty list beside the labels": Kind(
        lines({"text": TEXT, "entities": [], "spans": [{"start": s, "end": e, "label": c} for s, e, c in PLACES]}),
        "jsonl",
    ),
    # a list in an object
    "data": Kind(json.dumps({"version": 1, "data": [OWN, OWN]}, indent=1), "jsonl", MENTIONS, {"not-read": 1}, 2),
    "items of doccano": Kind(json.dumps({"items": [{"text": TEXT, "label": PLACES}]}), "doccano"),
    "tokens in data": Kind(json.dumps({"data": [{"tokens": [*TEXT], "ner_tags": TAGS}]}), "hf_tokens"),
    "one record, its labels first": Kind(
        json.dumps({"annotations": [{"text": "王芳", "label": "PER"}], "text": TEXT}), "jsonl", [("王芳", "PER", None)]
    ),
    "one record, its labels and their places first": Kind(
        labels_first(lambda w, c, s: {"text": w, "start_offset": s, "end_offset": s + 2, "labels": [c]}), "jsonl"
    ),
    "one record, its labels first, startIndex": Kind(
        labels_first(lambda w, c, s: {"text": w, "startIndex": s, "endIndex": s + 2, "labels": [c]}), "jsonl"
    ),
    "one record, its labels first, begin": Kind(
        labels_first(lambda w, c, s: {"text": w, "begin": s, "stop": s + 2, "labels": [c]}), "jsonl"
    ),
    "one record, its labels first, pairs of offsets": Kind(
        labels_first(lambda w, c, s: {"text": w, "span": [s, s + 2], "type": c}), "jsonl"
    ),
    "records, their labels without places first": Kind(
        labels_first(lambda w, c, s: {"text": w, "entity_type": c}) * 2,
        "jsonl",
        [(w, c, None) for w, c, _ in MENTIONS],
        sentences=2,
    ),
    "one task, its labels first": Kind(json.dumps(dict(reversed(TASK.items()))), "label_studio"),
    "prose": Kind("今天天气好。\n我们去了杭州，[图片]很美 http://a.b/c\n", "text", [], {}, 2, ["今天天气好。"]),
}

REFUSED = {  # a file, and the place and the words of the message
    "slashes": ("王芳/nr 去/v 了/u 杭州/ns\n李雷/nr 来/v\n", r":1: .*behind slashes.*token and its tag"),
    "bars behind words": ("Alice|B-PER went|O to|O Paris|B-LOC\n" * 2, r":1: .*behind slashes or bars"),
    "tags behind slashes": ("王/B-PER 芳/I-PER 去/O 杭/B-LOC 州/I-LOC\n" * 2, r":1: .*behind slashes"),
    "tags behind lines": ("王芳_B-PER 去_O 了_O 杭州_B-LOC\n" * 2, r":1: .*behind slashes"),
    "categories behind colons": (f"{TEXT} 王芳:PER 杭州:LOC\n" * 2, r":1: .*behind slashes"),
    "YAML": (f"- text: {TEXT}\n  entities:\n  - [0, 2, PER]\n" * 2, r":1: .*names and values"),
    "names and values": (f"句子：{TEXT}\n实体：王芳(人名)\n\n" * 2, r":1: .*names and values"),
    "marks": (f"{TEXT} ||| 人名 ||| 王芳\n" * 2, r":1: .*fields between marks"),
    "a program": (f"data = [\n    ('{TEXT}', [(0, 2, 'PER')]),\n]\n", r":1: .*text of a program"),
    "LaTeX": (f"\\documentclass{{ctexart}}\n\\begin{{document}}\n{TEXT}\n\\end{{document}}\n", r":1: .*program"),
    "subtitles": (f"1\n00:00:01,000 --> 00:00:02,000\n{TEXT}\n\n" * 2, r":2: .*subtitles"),
    "semicolons": (f"id;text;label\n1;{TEXT};PER\n", r":1: .*3 columns between semicolons"),
    "an entity a line": (
        lines({"text": TEXT, "entity": "王芳", "label": "PER", "start": 0, "end": 2}),
        r":1: .*`entity`",
    ),
    "tokens with entities": (
        lines({"tokens": [*TEXT], "entities": [{"start": 0, "end": 2, "type": "PER"}]}),
        r":1: .*`tokens`",
    ),
    "words for letters": (column("BEGIN-PER INSIDE-PER O O O O"), r":1: .*columns that are not known"),
    "quoted columns": (column(BIO, '"{token}" "{tag}"'), r":1: .*columns that are not known"),
    "numbers behind characters": (column("1 2 0 0 3 4"), r":1: .*two columns"),
    "a second layer of O": (column(BIO, "{token} {tag} O"), r":1: .*columns 2 and 3.*data\.tag_column"),
    "triples of relations": (
        json.dumps([{"text": TEXT, "triple_list": [["王芳", "去", "杭州"]]}]),
        r":1: .*`triple_list`",
    ),
    "words with categories": (lines({"text": TEXT, "entities": {"王芳": "PER"}}), r":1: .*not a list; the record"),
    "splits in one file": (json.dumps({"train": [OWN], "dev": [OWN]}), r"several lists of sentences \(train, dev\)"),
    "a list on each line": (lines({"data": [OWN]}, {"data": [OWN]}), r"several lists of sentences\. Write"),
    "a table in bars": ("| 王 | x |\n| 芳 | y |\n", r":1: .*drawn with bars"),
    "BosonNLP": ("{{person_name:王芳}}去了{{location:杭州}}\n" * 2, r":1: .*in brackets"),
    "brackets": ("[王芳]人名 去了 [杭州]城市\n", r":1: .*in brackets"),
    "tags in XML": ("<PER>王芳</PER>去了<LOC>杭州</LOC>\n" * 2, r":1: .*(brackets|XML)"),
    "markup": ("<?xml version='1.0'?>\n<doc>\n<s>王芳</s>\n</doc>\n", r":1: .*XML"),
    "parallel lines": (f"王 芳 去 了 杭 州\n{BIO}\n", r":2: .*parallel"),
    "a file of tags": (f"{BIO}\nO O B-PER\n", r":1: .*parallel"),
    "gold and predictions": (
        column("B-PER I-PER O O B-LOC I-LOC", "{token} {tag} {tag}"),
        r":1: .*columns 2 and 3.*data\.tag_column",
    ),
    "a table": ("名字,年龄,城市\n王芳,30,杭州\n李雷,31,上海\n", r":1: .*table of 3 columns"),
    "columns": ("王芳\t30\t杭州\n李雷\t31\t上海\n", r":1: .*columns between tabs"),
    "relations": (lines({"text": TEXT, "spo_list": [{"subject": "王芳"}]}), r":1: .*JSON with `text`, `spo_list`"),
    "predictions": (lines({"prompt": "a", "predict": "[]"}), r":1: predictions"),
    "numbers for tags": (lines({"tokens": [*TEXT], "ner_tags": [1, 2, 0, 0, 3, 4]}), r":1: tags are numbers.*names"),
    "numbers for labels": (
        lines({"text": TEXT, "annotations": [{"label": 3, "start_offset": 0, "end_offset": 2}]}),
        r":1: label 3 is a number.*/v1/projects/<number>/labels",
    ),
    "broken triples": (lines({"id": 1, "data": TEXT, "label": ["entities"]}), r":1: not one entity"),
    "every offset lost": (
        lines({"text": TEXT, "entities": [{"text": "上海", "category": "LOC", "start": 4, "end": 6}]}),
        r":1: not one entity.*holds '杭州'",
    ),
    "UTF-16": ("\ufeff王", r":1: UTF-16"),
    "GB18030": ("王芳去了杭州\n", r":1: .*not UTF-8"),
    "GB18030, a table": ("编号,内容,实体\n1,王芳去了杭州,王芳\n", r":1: the file is not UTF-8.*iconv"),
    "a table with labels in words": (
        "text,label\n王芳去了杭州,王芳/人\n",
        r":1: .*table of 2 columns.*label cell being JSON",
    ),
    "nothing": (" \n\n", r":1: the file is empty"),
    "torn": ('{"text": "王', r":1: no known format.*JSON"),
    "mostly broken lines": (
        lines({"text": TEXT, "entities": []}) + "{\n" * 3,
        r":2: 75% of its sentences.*data\.max_issues",
    ),
}
ENCODINGS = {"UTF-16": "utf-16-le", "GB18030": "gb18030", "GB18030, a table": "gb18030"}


def read(path: Path, **changes: Any) -> tuple[list[Sentence], list[Issue]]:
    """As every task reads a file, with the limit of `data.max_issues`."""
    options = ReadOptions(id_prefix="s", **changes)
    return sources.check_read(path, *formats.read(path, "auto", options), 0.5)


def mentions(sentence: Sentence) -> list[tuple[str, str, int | None]]:
    return [(entity.text, entity.category, entity.start) for entity in sentence.entities]


@pytest.mark.parametrize("name", READ)
def test_what_is_read(tmp_path: Path, name: str) -> None:
    kind = READ[name]
    path = tmp_path / "file"
    path.write_bytes(kind.content.encode())
    assert formats.recognise(path)[0] == kind.format
    sentences, issues = read(path)
    assert mentions(sentences[0]) == kind.mentions
    assert [sentence.text for sentence in sentences[: len(kind.texts)]] == kind.texts
    assert (len(sentences), codes(issues)) == (kind.sentences, kind.issues)
    assert_offsets_hold(sentences)


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(tmp_path: Path, name: str) -> None:
    content, message = REFUSED[name]
    path = tmp_path / "file"
    path.write_bytes(content.encode(ENCODINGS.get(name, "utf-8")))
    with pytest.raises(UserError) as refused:
        read(path)
    assert re.search(message, str(refused.value)), refused.value
    assert len(str(refused.value)) < 1000 + 4 * len(str(path))


@pytest.mark.parametrize("labels", [[{"id": 3, "text": "PER"}], {"results": [{"id": 3, "text": "PER"}]}])
def test_labels_beside_an_old_export_have_the_names(tmp_path: Path, labels: object) -> None:
    items = [{"label": 3, "start_offset": 0, "end_offset": 2, "user": 1}]
    (tmp_path / "export.json").write_text(lines({"id": 1, "text": TEXT, "annotations": items}), encoding="utf-8")
    (tmp_path / "labels.json").write_text(json.dumps(labels), encoding="utf-8")
    sentences, issues = read(tmp_path / "export.json")
    assert mentions(sentences[0]) == MENTIONS[:1]
    assert issues == []
    assert [file.name for file in formats.corpus_files(tmp_path)] == ["export.json"]


def test_there_are_enough_kinds() -> None:
    assert len(READ) + len(REFUSED) >= 90


def test_what_a_key_settles(tmp_path: Path) -> None:
    """Each refusal and each guess names a key; with it the file is read."""
    path = tmp_path / "file"
    path.write_text(READ["doccano, either unit"].content, encoding="utf-8")
    [sentence], issues = read(path, offsets="utf16")
    assert (mentions(sentence), issues) == ([("王芳", "PER", 2)], [])
    path.write_text(REFUSED["gold and predictions"][0], encoding="utf-8")
    for column_read in (2, 3):
        assert mentions(read(path, tag_column=column_read)[0][0]) == MENTIONS
    for content, column_read in ((column(BIO, "{tag} {token} O"), 1), (column(BIO), 2)):
        path.write_text(content, encoding="utf-8")
        assert mentions(read(path, tag_column=column_read)[0][0]) == MENTIONS
    path.write_text("王 PER\n芳 PER\n去 V\n", encoding="utf-8")
    [sentence], _ = formats.read(path, "conll", ReadOptions(scheme="io"))
    assert mentions(sentence) == [("王芳", "PER", 0), ("去", "V", 2)]
    path.write_text(REFUSED["slashes"][0], encoding="utf-8")
    sentences, _ = formats.read(path, "text", ReadOptions())
    assert [sentence.text for sentence in sentences] == ["王芳/nr 去/v 了/u 杭州/ns", "李雷/nr 来/v"]
    assert all(map(is_unlabeled, sentences))


def test_offsets_behind_an_emoji_follow_what_the_file_labels_elsewhere(tmp_path: Path) -> None:
    names = ["王芳", "李雷", "韩梅"]
    plain = [{"text": f"{name}来了这里看看", "label": [[0, 2, "PER"]]} for name in names]
    behind = [{"text": f"😀{name}来了这里看看", "label": [[2, 4, "PER"]]} for name in names]
    path = tmp_path / "file"
    path.write_text(lines(*plain, *behind), encoding="utf-8")
    sentences, issues = read(path)
    assert [mentions(sentence)[0][0] for sentence in sentences] == names * 2
    assert codes(issues) == {"offset-units": 1}


@pytest.mark.parametrize(("units", "points"), [(2, 0), (3, 1)])
def test_offsets_behind_an_emoji_are_code_points_where_little_speaks_for_units(
    tmp_path: Path, units: int, points: int
) -> None:
    """Names labelled elsewhere are found by UTF-16 units, but too few of them, or others by code points."""
    names = ["王芳", "李雷", "韩梅"][:units]
    plain = [{"text": f"{name}来了这里看看", "label": [[0, 2, "PER"]]} for name in names]
    behind = [{"text": f"😀{name}来了这里看看", "label": [[2, 4, "PER"]]} for name in names]
    against = [{"text": f"😀去{names[0]}家看看", "label": [[2, 4, "PER"]]}] * points
    path = tmp_path / "file"
    path.write_text(lines(*plain, *behind, *against), encoding="utf-8")
    sentences, issues = read(path)
    found = [mentions(sentence)[0][0] for sentence in sentences]
    assert found == [*names, *(f"{name[1]}来" for name in names), *names[:1] * points]
    assert codes(issues) == {"offset-units-open": 1}


def test_one_annotator_of_an_export_is_chosen(tmp_path: Path) -> None:
    second = {"completed_by": {"id": 2, "email": "b@x.org"}, "result": RESULT[:1]}
    path = tmp_path / "file"
    path.write_text(json.dumps([{**TASK, "annotations": [*TASK["annotations"], second]}]), encoding="utf-8")  # type: ignore[misc]
    assert label_studio.annotators(path) == ["1", "b@x.org"]
    [sentence], issues = read(path)
    assert (mentions(sentence), codes(issues)) == (MENTIONS, {"several-annotations": 1})
    assert issues[0].id == "7"
    [sentence], issues = read(path, annotator="b@x.org")
    assert (mentions(sentence), issues) == (MENTIONS[:1], [])
    with pytest.raises(UserError, match=r"data\.annotator.*1, b@x\.org"):
        read(path, annotator="nobody")


def test_detection_looks_at_more_than_the_beginning(tmp_path: Path) -> None:
    """A file of a million characters that is untagged but for its end."""
    path = tmp_path / "file"
    path.write_text(lines({"text": TEXT * 40}) * 5000 + lines({"text": TEXT, "label": PLACES}) * 1000, encoding="utf-8")
    assert formats.recognise(path)[0] == "doccano"


CONTENTS = [kind.content for kind in READ.values()] + [content for content, _ in REFUSED.values()]
PIECES = [
    "\n",
    "\r",
    "\t",
    " ",
    ",",
    '"',
    "[",
    "]",
    "{",
    "}",
    "\\",
    "#",
    "😀",
    "\ufeff",
    "O",
    "B-",
    "-1",
    "99999999999",
    "null",
]


@given(
    content=st.sampled_from(CONTENTS),
    other=st.sampled_from(CONTENTS),
    places=st.lists(st.tuples(st.integers(0, 4000), st.integers(0, 20), st.sampled_from(PIECES)), max_size=4),
    cut=st.integers(0, 4000) | st.none(),
    format=st.sampled_from(["auto", *formats.FORMATS]),
    offsets=st.sampled_from(["auto", "auto", "half_open", "inclusive", "utf16"]),
)
@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_damaged_and_mixed_files_are_answered(
    tmp_path: Path,
    content: str,
    other: str,
    places: list[tuple[int, int, str]],
    cut: int | None,
    format: str,
    offsets: str,
) -> None:
    """Any kind torn, pieces put in, two kinds in one file, read as anything: sentences that hold, or a UserError."""
    damaged = content if cut is None else content[: cut % (len(content) + 1)] + other
    for place, removed, piece in places:
        at = place % (len(damaged) + 1)
        damaged = damaged[:at] + piece + damaged[at + removed :]
    path = tmp_path / "file"
    path.write_bytes(damaged.encode())
    try:
        sentences, issues = formats.read(path, format, ReadOptions(id_prefix="s", offsets=offsets))
    except UserError as error:
        where = error.where
        sentences, issues = [], []
    else:
        where = f"{path}:"
    assert where.startswith((f"{path}:", "data.")) or format == "brat"
    assert_offsets_hold(sentences)
    assert all(sentence.text and sentence.id for sentence in sentences)
    assert all(issue.file for issue in issues)


REPORTS = {  # a folder of the reports: files, and the surfaces of their first labelled sentence; None = refused
    "01-spacy-jsonl-triples": {"spacy.jsonl": "王芳 杭州西湖", "spacy_traindata.json": "王芳 杭州西湖"},
    "04-multiconer-comments": {"conllu.conllu": "王芳 杭州", "wnutlike.conll": "王芳 杭州", "zh.conll": "王芳 杭州"},
    "05-tags-without-prefix": {
        "bare_bio.txt": "王芳 杭州",
        "bmewo.txt": "王芳 杭",
        "few_io.txt": "王芳",
        "io.txt": "王芳 杭州",
        "lower.txt": "王芳 杭州",
        "suffix.txt": "王芳 杭州",
    },
    "10-doccano-variants": {
        "bug1795.jsonl": None,
        "data_label.jsonl": "王芳 杭州西湖",
        "data_label_firstempty.jsonl": "王芳 杭州西湖",
        "dataturks.json": "王芳 杭州西湖",
        "export.csv": "王芳 杭州西湖",
        "old_annotations.json": None,
        "old_labels.jsonl": "王芳 杭州西湖",
        "tecoholic.json": "王芳 杭州西湖",
        "utf16.jsonl": "王芳 杭州",
        "utf16_out.jsonl": "杭州 😀😀",
    },
    "15-brat-crlf-discontinuous": {
        "crlf": "王芳",
        "crlf_correct": "王芳",
        "bom": "王芳",
        "bytes": None,
        "typespace": None,
    },
    "18-other-tools-json": {
        "adaseq_tsv.csv": "王芳",
        "alpaca_obj_answer.json": "王芳",
        "alpaca_list_answer.json": "王芳",
        "alpaca_reversed.json": "王芳 杭州",
        "conlleval_pred.txt": None,
        "duee_like.jsonl": None,
        "gliner.json": "王芳 杭州",
        "hf_tokens.jsonl": "王芳 杭州",
        "hf_tokens_ids.jsonl": None,
        "inline_brackets.txt": None,
        "kaggle_ner.csv": "王芳",
        "lines_tsv.tsv": "王芳 杭州",
        "msra_slash.txt": None,
        "parallel_lines.txt": None,
        "quoted.csv": "王芳",
        "sharegpt_obj_answer.json": "王芳 杭州",
        "spans_list.jsonl": "王芳",
        "text_labels.jsonl": "王芳 杭州",
        "text_str_labels_list.jsonl": "王芳 杭州",
        "tianchi_entities.jsonl": "王芳",
        "uie.jsonl": "王芳",
        "w2ner.json": "王芳 杭州",
        "webanno.tsv": "王芳 杭州",
    },
}


@pytest.mark.parametrize(("folder", "name"), [(folder, name) for folder, names in REPORTS.items() for name in names])
def test_reported_files(shared: Path, folder: str, name: str) -> None:
    path = shared / "reports" / folder / name
    if not path.exists():
        pytest.skip(f"{path} is absent")
    expected = REPORTS[folder][name]
    if expected is None:
        with pytest.raises(UserError):
            read(path)
        return
    sentences, _ = read(path)
    first = next(sentence for sentence in sentences if sentence.entities)
    assert [entity.text for entity in first.entities] == expected.split()
