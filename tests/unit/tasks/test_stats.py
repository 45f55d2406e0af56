"""Which corpora an entry of `corpora` means: choices, files, folders, names; and what is said of wrong ones."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from omniner.config import compose
from omniner.corpus import formats
from omniner.corpus.formats import WriteOptions
from omniner.corpus.stats.checks import Verdict
from omniner.errors import UserError
from omniner.records import Entity, Sentence, sentence_to_json, to_line
from omniner.tasks import stats
from omniner.tasks.stats import ReadCorpus

SENTENCES = [Sentence("a", "喝小满", [Entity("小满", "品牌", 1, 3)], "p"), Sentence("b", "没有", [], "p")]


def write(path: Path, sentences: Sequence[Sentence] = SENTENCES) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{to_line(sentence_to_json(one))}\n" for one in sentences), encoding="utf-8")
    return path


def read(*overrides: str) -> list[ReadCorpus]:
    return [planned.read() for planned in stats.find_corpora(compose.load(["task=stats", *overrides]))]


def test_none_means_the_corpus_of_data_with_the_overrides_of_the_run() -> None:
    (one,) = read("data.size={train: 20, dev: 5, test: 0}")
    assert {split: len(sentences) for split, sentences in one.splits.items()} == {"train": 20, "dev": 5}
    assert one.name == "sample"
    assert one.taxonomy is not None
    assert len(one.taxonomy) == 90
    assert "data=sample" in one.about


def test_choices_keep_the_overrides_of_the_run_where_they_are_its_data(tmp_path: Path) -> None:
    path = write(tmp_path / "mine.jsonl")
    one, other = read(f"corpora=['twin=sample',{path}]", "data.size={train: 7, dev: 0, test: 0}")
    assert (one.name, len(one.splits["train"])) == ("twin", 7)
    assert (other.name, other.splits) == ("mine", {"mine": SENTENCES})


def test_published_splits_are_read_whole(tmp_path: Path) -> None:
    """Nothing is cut from train, dev keeps its name, and a test file without labels is no fault."""
    for split in ("train", "dev"):
        write(
            tmp_path / f"{split}.jsonl", [Sentence(f"{split}{n}", "喝小满", SENTENCES[0].entities) for n in range(20)]
        )
    write(tmp_path / "test.jsonl", [Sentence("u", "喝茶", meta={"unlabeled": True})])
    own = ["data=own", f"data.root={tmp_path}", "data.report=dev", "data.dev_from_train=0.5"]
    (one,) = read(*own, "data.files={train: [train.jsonl], dev: [dev.jsonl], test: [test.jsonl]}")
    assert {split: len(sentences) for split, sentences in one.splits.items()} == {
        "train": 20,
        "dev": 20,
        "unlabeled": 1,
    }
    assert one.taxonomy is None


def test_unknown_categories_are_for_the_checks_to_name(tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl", [Sentence("a", "喝小满", [Entity("小满", "品类_产吕", 1, 3)])])
    own = ["data=own", f"data.root={tmp_path}", "data.taxonomy=omniner2025"]
    (one,) = read(*own, "data.files={train: [train.jsonl], dev: [], test: []}")
    assert one.splits["train"][0].entities[0].category == "品类_产吕"
    assert one.taxonomy is not None
    assert "品类_产吕" not in one.taxonomy


def test_a_folder_has_the_splits_that_its_files_are_called_after(tmp_path: Path) -> None:
    for name in ("my.test.jsonl", "corpus_train_1.jsonl", "valid.jsonl", "latest.jsonl"):
        write(tmp_path / name)
    (tmp_path / ".hidden").write_text("x")
    (one,) = read(f"corpora=['weird={tmp_path}']")
    assert list(one.splits) == ["train", "dev", "test"]
    assert [(issue.code, Path(issue.file).name) for issue in one.issues] == [("no-split", "latest.jsonl")]
    assert f"{tmp_path / 'my.test.jsonl'} read as jsonl (" in one.about


def test_a_file_called_after_a_split_is_that_split(tmp_path: Path) -> None:
    (one,) = read(f"corpora=[{write(tmp_path / 'dev.json')}]")
    assert list(one.splits) == ["dev"]


def test_files_are_held_against_the_official_categories_where_most_mentions_are_of_them(tmp_path: Path) -> None:
    def one(*categories: str) -> ReadCorpus:
        entities = [Entity("小满", category, 1, 3) for category in categories]
        (found,) = read(f"corpora=[{write(tmp_path / 'x.jsonl', [Sentence('a', '喝小满', entities)])}]")
        return found

    official = one("品牌", "品类_产品", "品类_产吕").taxonomy
    assert official is not None
    assert official.name == "omniner2025"
    assert one("品牌", "PER").taxonomy is None
    assert one().taxonomy is None


def test_brat_keeps_one_split_in_a_folder(tmp_path: Path) -> None:
    options = WriteOptions(scheme="bio", separator="tab", joiner="")
    formats.write(tmp_path / "notes", "brat", SENTENCES, options)
    (one,) = read(f"corpora=[{tmp_path / 'notes'}]")
    assert list(one.splits) == ["notes"]
    assert [sentence.text for sentence in one.splits["notes"]] == ["喝小满", "没有"]


@pytest.mark.parametrize(
    ("entries", "found"),
    [
        ("nowhere", "'nowhere' is no choice of data, and there is no such file or folder"),
        ("./gone.jsonl", "corpora: ./gone.jsonl does not exist"),
        ("'x=gone.jsonl'", "corpora: gone.jsonl does not exist"),
        ("'a/b=sample'", "'a/b' is no name for a corpus"),
        ("sample,sample", "two are called 'sample'"),
        ("sample,cluener", "there is no folder"),
    ],
)
def test_what_is_not_there_is_said_before_anything_is_read(
    entries: str, found: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMNINER_DATA", str(tmp_path / "none"))
    with pytest.raises(UserError) as error:
        stats.find_corpora(compose.load(["task=stats", f"corpora=[{entries}]"]))
    assert found in str(error.value)


def test_a_folder_without_splits_or_with_two_of_one_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "a" / "one.jsonl")
    with pytest.raises(UserError, match="no file is called after train"):
        read(f"corpora=[{tmp_path / 'a'}]")
    for name in ("train.jsonl", "train2.jsonl"):
        write(tmp_path / "b" / name)
    with pytest.raises(UserError, match="is the split train, too"):
        read(f"corpora=[{tmp_path / 'b'}]")


def test_a_file_without_a_sentence_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text('{"text": "", "entities": []}\n', encoding="utf-8")
    with pytest.raises(UserError, match="no sentence could be read"):
        read(f"corpora=[{path}]")


def test_what_is_generated_has_all_its_splits_whatever_is_reported_on() -> None:
    (one,) = read("data.report=dev", "data.dev_from_train=0.1", "data.size={train: 20, dev: 5, test: 4}")
    assert {split: len(sentences) for split, sentences in one.splits.items()} == {"train": 20, "dev": 5, "test": 4}


def test_a_test_split_without_labels_and_other_unlabelled_files_are_both_there(tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl")
    for name in ("test", "more"):
        write(tmp_path / f"{name}.jsonl", [Sentence(name, "喝茶", meta={"unlabeled": True})])
    own = ["data=own", f"data.root={tmp_path}", "data.report=dev", "data.dev_from_train=0.5"]
    own.append("data.files={train: [train.jsonl], dev: [], test: [test.jsonl]}")
    (one,) = read(*own, "+data.files.unlabeled=[more.jsonl]")
    ids = {split: [sentence.id for sentence in sentences] for split, sentences in one.splits.items()}
    assert ids == {"train": ["a", "b"], "unlabeled": ["more"], "unlabeled_test": ["test"]}
    (one,) = read(*own, "+data.files.unlabeled=[test.jsonl]")
    assert list(one.splits) == ["train", "unlabeled"]


def test_a_folder_of_label_studio_files_is_read_with_its_configurations_left_out(tmp_path: Path) -> None:
    options = WriteOptions(scheme="bio", separator="tab", joiner="")
    for name in ("train", "test"):
        formats.write(tmp_path / f"{name}.json", "label_studio", SENTENCES, options)
    assert (tmp_path / "train.xml").exists()
    (one,) = read(f"corpora=['ls={tmp_path}']")
    assert {split: len(sentences) for split, sentences in one.splits.items()} == {"train": 2, "test": 2}


@pytest.mark.parametrize(("exit_on", "named"), [("fail", ["leakage"]), ("warn", ["leakage", "rare"]), ("never", [])])
def test_the_exit_status_follows_the_checks(exit_on: str, named: list[str]) -> None:
    statuses = {"leakage": "failed", "rare": "warned", "posts": "passed"}
    judged = [Verdict(check, status, 1, 0, "", "") for check, status in statuses.items()]
    complaint = stats._complaint({"mine": judged}, exit_on)
    assert ([name for name in ("leakage", "rare", "posts") if name in complaint], bool(complaint)) == (
        named,
        bool(named),
    )
