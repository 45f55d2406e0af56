"""Corpora from one format to another from the command line."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.e2e.conftest import omniner

pytestmark = pytest.mark.slow

CONVERT = ["task=convert", "tracking=off"]
DATA = ["data.size={train: 24, dev: 8, test: 8}", *CONVERT]


def test_splits_go_through_annotation_tools_and_come_back(tmp_path: Path) -> None:
    omniner(*DATA, "to=jsonl", "output=plain", cwd=tmp_path)
    omniner(*DATA, "to=label_studio", "output=tasks", cwd=tmp_path)
    splits = ["dev", "test", "train"]
    assert sorted(path.name for path in (tmp_path / "tasks").glob("*.xml")) == [f"sample_{s}.xml" for s in splits]
    omniner(*CONVERT, "to=doccano", "input=tasks", "output=triples", cwd=tmp_path)
    omniner(*CONVERT, "to=jsonl", "input=triples", "output=back", cwd=tmp_path)
    for split in splits:
        name = f"sample_{split}.jsonl"
        assert _content(tmp_path / "back" / name) == _content(tmp_path / "plain" / name)


def test_a_corpus_without_train_is_converted(tmp_path: Path) -> None:
    line = '{"id": "a", "text": "我爱北京店", "entities": [{"text": "北京", "category": "C", "start": 2, "end": 4}]}'
    (tmp_path / "x.jsonl").write_text(line + "\n", encoding="utf-8")
    files = [f"data.files.{split}=[{'x.jsonl' if split == 'test' else ''}]" for split in ("train", "dev", "test")]
    omniner(*CONVERT, "data=own", *files, "to=jsonl", "output=made", cwd=tmp_path)
    assert [path.name for path in (tmp_path / "made").iterdir()] == ["own_test.jsonl"]
    refused = omniner(*CONVERT, "data=own", *files, "to=alpaca", "output=other", cwd=tmp_path, status=2)
    assert "data.files.train: none, and the prompt names the categories of train" in refused.stderr


def test_a_file_becomes_a_folder_of_brat_and_a_file_again(tmp_path: Path) -> None:
    lines = ['{"id": "a", "text": "我爱北京😀店", "entities": [{"text": "店", "category": "C", "start": 5, "end": 6}]}']
    lines += ['{"id": "b", "text": "一\\n二", "entities": []}']
    (tmp_path / "x.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    result = omniner(*CONVERT, "to=brat", "input=x.jsonl", "output=standoff", cwd=tmp_path)
    assert "read as jsonl (JSON lines with `text` and `entities`" in result.stderr
    assert "issues: 1 split-lines" in result.stderr
    assert sorted(path.name for path in (tmp_path / "standoff").iterdir()) == ["a.ann", "a.txt", "b.ann", "b.txt"]
    omniner(*CONVERT, "to=jsonl", "input=standoff", "output=back.jsonl", cwd=tmp_path)
    back = (tmp_path / "back.jsonl").read_text(encoding="utf-8").splitlines()
    assert json.loads(back[0]) == json.loads(lines[0])
    refused = omniner(*CONVERT, "to=brat", "input=x.jsonl", "output=standoff", cwd=tmp_path, status=2)
    assert "exists already" in refused.stderr


def test_columns_are_written_as_asked(tmp_path: Path) -> None:
    line = '{"id": "a", "text": "我爱北京店", "entities": [{"text": "北京", "category": "C", "start": 2, "end": 4}]}'
    (tmp_path / "x.jsonl").write_text(line + "\n", encoding="utf-8")
    command = [*CONVERT, "to=conll", "input=x.jsonl", "convert.scheme=bio", "convert.separator=space"]
    omniner(*command, "output=x.conll", cwd=tmp_path)
    assert (tmp_path / "x.conll").read_text(encoding="utf-8") == "我 O\n爱 O\n北 B-C\n京 I-C\n店 O\n\n"


def test_labels_of_a_project_are_all_that_the_model_knows(trained: tuple[Path, Path], tmp_path: Path) -> None:
    _, folder = trained
    command = [*CONVERT, "to=label_studio", f"input={folder / 'predictions.jsonl'}"]
    said = omniner(*command, "output=found.json", cwd=tmp_path).stderr
    assert "checkpoint=<run> adds all that its model knows" in said
    omniner(*command, f"checkpoint={folder}", "output=known.json", cwd=tmp_path)
    found, known = (
        {label.get("value") for label in ElementTree.parse(tmp_path / name).iter("Label")}
        for name in ("found.xml", "known.xml")
    )
    assert found < known


def _content(path: Path) -> list[object]:
    items = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    for item in items:
        item["entities"].sort(key=lambda entity: (entity["start"], entity["end"]))
    return items
