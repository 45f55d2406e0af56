"""What a file says reaches its sentences, or is an issue: forms that are easily lost."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.helpers.reading import codes, read, spans

from omniner.records import Entity
from omniner.scoring.units import place_answers

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
    [placed], issues = place_answers([sentence], [given])
    assert (placed, codes(issues)) == ([Entity("北京", "地点", 2, 4)], {"offsets-do-not-fit": 1})
