"""`task=split` from files to files: usable at once, nothing lost, and mistakes are one clear line."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from omniner import run
from omniner.config import compose
from omniner.corpus import sources
from omniner.corpus.formats import jsonl
from omniner.corpus.sample import generate_sample
from omniner.errors import UserError
from omniner.files import read_json
from omniner.records import Entity, Sentence, sentence_to_json


@pytest.fixture
def corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Sentence]:
    monkeypatch.chdir(tmp_path)
    sentences = generate_sample({"train": 300}, 5)["train"]
    (tmp_path / "given").mkdir()
    jsonl.write(tmp_path / "given" / "a.jsonl", sentences[:200])
    jsonl.write(tmp_path / "given" / "b.jsonl", sentences[200:])
    return sentences


def do(*overrides: str) -> Path:
    return run.run(compose.load(["tracking=off", "task=split", *overrides]))


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_a_folder_becomes_a_corpus_that_is_read_as_own(
    corpus: list[Sentence], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = do("input=given", "output=own", "output_dir=run")
    assert "data=own data.root=" in capsys.readouterr().out
    found = sources.load_corpus(compose.load(["data=own", "data.root=own", "data.taxonomy=omniner2025"]).data, None)
    assert {name: len(part) for name, part in found.splits.items()} == {"train": 240, "dev": 30, "test": 30}
    written = [sentence_to_json(item) for part in found.splits.values() for item in part]
    key = str
    assert sorted(written, key=key) == sorted(map(sentence_to_json, corpus), key=key)
    content = read_json(folder / "split.json")
    assert content["sentences"] == content["targets"] == {"train": 240, "dev": 30, "test": 30}
    assert "240" in (folder / "split.md").read_text(encoding="utf-8")
    with (folder / "tables" / "split_categories.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        assert int(row["train"]) + int(row["dev"]) + int(row["test"]) == int(row["mentions"])
        assert content["mentions"][row["category"]]["dev"] == int(row["dev"])
    codes = [one["code"] for one in lines(folder / "issues.jsonl")]
    absent = [row for row in rows if "0" in (row["train"], row["dev"], row["test"])]
    assert codes == ["absent-category"] * len(absent)
    assert all(int(row["groups"]) < 20 for row in absent)


def test_the_splits_of_data_are_joined_and_the_run_holds_the_new_ones(corpus: list[Sentence]) -> None:
    sizes = "data.size={train: 60, dev: 20, test: 20}"
    folder = do(sizes, "split.shares={train: 0.5, dev: 0, test: 0.5}", "output_dir=run")
    assert sorted(path.name for path in (folder / "corpus").iterdir()) == ["test.jsonl", "train.jsonl"]
    ids = {one["id"][:3] for name in ("train", "test") for one in lines(folder / "corpus" / f"{name}.jsonl")}
    assert ids == {"tra", "dev", "tes"}
    again = do(sizes, "split.shares={train: 0.5, dev: 0, test: 0.5}", "output_dir=again")
    assert lines(again / "corpus" / "test.jsonl") == lines(folder / "corpus" / "test.jsonl")
    other = do(sizes, "split.shares={train: 0.5, dev: 0, test: 0.5}", "split.seed=1", "output_dir=other")
    assert lines(other / "corpus" / "test.jsonl") != lines(folder / "corpus" / "test.jsonl")


def test_ids_that_stand_twice_and_sentences_without_labels_are_issues(corpus: list[Sentence], tmp_path: Path) -> None:
    jsonl.write(tmp_path / "given" / "c.jsonl", [Sentence(corpus[0].id, "别的句子", [], "other")])
    with (tmp_path / "given" / "b.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"id": "bare", "text": "没有标注"}\n')
    folder = do("input=given", "output_dir=run")
    found = [one for one in lines(folder / "issues.jsonl") if one["code"] != "absent-category"]
    assert [(one["code"], one["id"]) for one in found] == [
        ("duplicate-id", f"c-{corpus[0].id}"),
        ("unlabeled", "bare"),
    ]
    assert read_json(folder / "split.json")["sentences"] == {"train": 241, "dev": 30, "test": 30}


def test_an_output_that_holds_other_files_is_left_alone(corpus: list[Sentence], tmp_path: Path) -> None:
    do("input=given", "output=own", "output_dir=run")
    do("input=given", "output=own", "output_dir=run2", "split.seed=3", "overwrite=true")  # only its own files
    (tmp_path / "own" / "notes.txt").write_text("mine", encoding="utf-8")
    before = (tmp_path / "own" / "train.jsonl").read_bytes()
    with pytest.raises(UserError, match=r"output: .*own holds notes\.txt"):
        do("input=given", "output=own", "output_dir=run3")
    assert (tmp_path / "own" / "train.jsonl").read_bytes() == before
    (tmp_path / "own" / "notes.txt").unlink()
    with pytest.raises(UserError, match="is, or holds, what is read"):
        do("input=own", "output=own", "output_dir=run3")


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["input=nothing"], "input: nothing does not exist"),
        (["split.shares={train: 0.8, dev: 0.1, test: 0.2}"], "train 0.8, dev 0.1, test 0.2 do not make a whole"),
        (["split.shares={train: 0, dev: 0, test: 0.5}"], "do not make a whole"),
        (["split.shares={train: 1.0, dev: 0, test: 0}"], "split.shares.train: 1.0 is not a share"),
        (["+split.shares.a-b=0.1"], "no name for a split"),
        (["split.together=all"], "split.together: 'all' is not a choice"),
        (["input=given", "output=given/a.jsonl"], "is a file"),
        (["input=bare.jsonl"], "no labelled sentence"),
        (["input=two.jsonl"], "2 sentences in 1 group"),
    ],
)
def test_mistakes_are_one_line(corpus: list[Sentence], tmp_path: Path, overrides: list[str], said: str) -> None:
    (tmp_path / "bare.jsonl").write_text('{"id": "s0", "text": "她"}\n', encoding="utf-8")
    jsonl.write(
        tmp_path / "two.jsonl", [Sentence("a", "她", [Entity("她", "人", 0, 1)], "p"), Sentence("b", "他", [], "p")]
    )
    with pytest.raises(UserError, match=said):
        do(*overrides)
    assert not (tmp_path / "outputs").exists() or not any((tmp_path / "outputs").iterdir())


def own(*files: str) -> list[str]:
    return ["data=own", f"data.files={{{', '.join(files)}}}"]


@pytest.mark.parametrize(
    ("output", "overrides"),
    [
        ("given", ["input=given/train.jsonl"]),
        ("link", ["input=given/train.jsonl"]),
        ("given", ["input=link/train.jsonl"]),
        ("given", [*own("train: [given/train.jsonl]"), "data.root=."]),
        ("given", [*own("train: [train.jsonl]"), "data.root=given"]),
        ("given", [*own("train: [../link/train.jsonl]"), "data.root=run"]),
    ],
)
def test_an_output_that_holds_what_is_read_is_left_alone(
    corpus: list[Sentence], tmp_path: Path, output: str, overrides: list[str]
) -> None:
    (tmp_path / "given" / "a.jsonl").rename(tmp_path / "given" / "train.jsonl")
    (tmp_path / "given" / "b.jsonl").rename(tmp_path / "given" / "dev.jsonl")
    (tmp_path / "link").symlink_to("given")
    before = {path: path.read_bytes() for path in (tmp_path / "given").iterdir()}
    with pytest.raises(UserError, match="is, or holds, what is read"):
        do(*overrides, f"output={output}", "output_dir=run")
    assert {path: path.read_bytes() for path in (tmp_path / "given").iterdir()} == before


def test_a_link_as_output_stays_one(corpus: list[Sentence], tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    (tmp_path / "link").symlink_to("own")
    do("input=given", "output=link", "output_dir=run")
    assert (tmp_path / "link").is_symlink()
    assert sorted(path.name for path in (tmp_path / "own").iterdir()) == ["dev.jsonl", "test.jsonl", "train.jsonl"]


def published(tmp_path: Path, corpus: list[Sentence]) -> list[str]:
    for name, part in (("train", corpus[:100]), ("dev", corpus[100:140]), ("extra", corpus[140:150])):
        jsonl.write(tmp_path / "given" / f"{name}.jsonl", part)
    files = own("train: [train.jsonl]", "dev: [dev.jsonl]", "test: [test.jsonl]")
    return [*files, "+data.files.more=[extra.jsonl]", "data.root=given", "data.dev_from_train=0.5"]


def joined(folder: Path) -> list[str]:
    return sorted(one["id"] for path in (folder / "corpus").iterdir() for one in lines(path))


def unused(folder: Path) -> list[str]:
    return [one["message"] for one in lines(folder / "issues.jsonl") if one["code"] == "unused-split"]


def test_what_a_training_run_does_with_the_splits_of_data_changes_nothing(
    corpus: list[Sentence], tmp_path: Path
) -> None:
    given = published(tmp_path, corpus)
    jsonl.write(tmp_path / "given" / "test.jsonl", corpus[150:180])
    everything = sorted(one.id for one in [*corpus[:140], *corpus[150:180]])
    for report in ("test", "dev"):
        folder = do(*given, f"data.report={report}", f"output_dir={report}")
        assert joined(folder) == everything
        assert unused(folder) == ["more is none of train, dev and test: not read"]


def test_a_test_split_without_labels_is_left_out_and_said_to_be(corpus: list[Sentence], tmp_path: Path) -> None:
    given = published(tmp_path, corpus)
    (tmp_path / "given" / "test.jsonl").write_text('{"id": "bare", "text": "没有标注"}\n', encoding="utf-8")
    folder = do(*given, "data.report=dev", "output_dir=run")
    assert joined(folder) == sorted(one.id for one in corpus[:140])
    assert unused(folder)[1:] == ["the published test split has no labels: left out"]


@pytest.mark.parametrize(
    ("shares", "said"),
    [
        ("{train: 0.8, dev: 0.1, test: 0.1}", True),
        ("{train: 0.8, dev: 0, test: 0.2}", True),
        ("{train: 0.8, dev: 0.2, test: 0}", False),
    ],
)
def test_what_is_said_to_train_with_can_be_trained_with(
    corpus: list[Sentence], capsys: pytest.CaptureFixture[str], shares: str, said: bool
) -> None:
    do("input=given", "output_dir=run", f"split.shares={shares}")
    found = [line for line in capsys.readouterr().out.splitlines() if line.startswith("train on it: ")]
    assert len(found) == said
    for line in found:
        parts = sources.load_corpus(compose.load(line.removeprefix("train on it: ").split()).data, None).splits
        assert {name for name, part in parts.items() if part} == {"train", "dev", "test"}
