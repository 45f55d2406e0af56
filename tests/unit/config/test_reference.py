from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace

import pytest
from tests.conftest import ROOT

from omniner.config.groups import Config
from omniner.config.reference import choices, descriptions, help_text, main, markdown, tasks_markdown
from omniner.config.validate import field_types, take_apart
from omniner.registry import TASKS

DOCUMENT = ROOT / "docs" / "configuration.md"
TASKS_DOCUMENT = ROOT / "docs" / "reference" / "tasks.md"


def test_the_document_is_up_to_date() -> None:
    assert DOCUMENT.read_text(encoding="utf-8") == markdown().rstrip("\n") + "\n", "run `make docs`"
    assert TASKS_DOCUMENT.read_text(encoding="utf-8") == tasks_markdown().rstrip("\n") + "\n", "run `make docs`"


def test_the_document_says_which_tasks_have_no_folder() -> None:
    sections = dict(re.findall(r"## `task=(\w+)`\n(.*?)(?=\n## |\Z)", tasks_markdown(), flags=re.DOTALL))
    assert sections.keys() == set(TASKS)
    without = {name for name, text in sections.items() if "- has no folder" in text.splitlines()}
    assert without == {name for name, task in TASKS.items() if not task.has_own_run} == {"prune", "sync", "ui"}


def test_a_key_names_the_tasks_that_read_it() -> None:
    meanings = descriptions(Config)
    read = [(one.key, name) for name, task in TASKS.items() for one in task.inputs if one.key in meanings]
    assert len(read) > 10
    assert [(key, name) for key, name in read if not re.search(rf"\b{name}\b", meanings[key])] == []


def test_every_key_says_what_it_is() -> None:
    for name, annotation in field_types(Config).items():
        for group in take_apart(annotation).groups:
            assert descriptions(group).keys() == field_types(group).keys(), name


def test_one_group_can_be_asked_for() -> None:
    text = markdown(["trainer"])
    assert text.startswith("## `trainer`")
    assert text.count("\n## ") == 0
    assert "| `warmup` | share from 0 to below 1 | `0.1` | Share of all steps" in text


def test_the_help_of_a_task_is_its_own_section() -> None:
    text = help_text(["task=predict", "checkpoint=a", "--help"])
    assert text.startswith("## `task=predict`\n")
    assert text.count("## ") == 1
    assert "- reads: `checkpoint`" in text
    assert text.splitlines()[-1] == "Groups, choices and flags: python -m omniner.run --help"
    assert help_text(["task=predicts", "--help"]) == help_text()


def test_what_is_only_extended_is_no_choice() -> None:
    assert "_causal" not in choices(ROOT / "conf" / "model")
    assert " _" not in help_text()


def test_help_lists_groups_of_the_users_own_and_what_is_registered(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "mine.yaml").write_text("# My corpus.\nname: mine\n")
    TASKS.add(SimpleNamespace(name="zip", meaning="Pack."))
    try:
        lines = help_text(["head=crf", "--config-dir", str(tmp_path)]).splitlines()
    finally:
        TASKS.remove("zip")
    assert next(line for line in lines if line.startswith("data:")).startswith("data: cluener, cmeee, mine, msra")
    assert next(line for line in lines if line.startswith("task:")).endswith("train, ui, zip")
    assert not any(line.startswith("hydra") for line in lines)


@pytest.mark.parametrize(("arguments", "told"), [(["--tasks", "predct"], "is no task"), (["promt"], "is no group")])
def test_a_misspelt_name_has_no_reference(arguments: list[str], told: str) -> None:
    with pytest.raises(SystemExit, match=rf"error: .* {told}\. Known: .*p"):
        main(arguments)
