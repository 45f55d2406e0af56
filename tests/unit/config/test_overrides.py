"""Arguments as people type them: read as they look, or refused with the corrected one."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import OmegaConf
from yaml import YAMLError

from omniner.config import compose
from omniner.config.groups import Config
from omniner.config.overrides import (
    ELSEWHERE,
    every_key,
    explain_override,
    explain_own_file,
    own_folders,
    quote,
    read_arguments,
)
from omniner.config.validate import field_types
from omniner.errors import UserError

CONF = compose.conf_folder()


def value_of(argument: str, *others: str) -> Any:
    """What Hydra makes of an argument that was read."""
    *_, read = read_arguments([*others, argument], CONF)
    return OverridesParser.create().parse_override(read).value()


@pytest.mark.parametrize(
    "value",
    [
        *(
            "预测结果.jsonl",
            "语料/第一 批",
            "generated_predictions (1).jsonl",
            "a=b",
            "a#b",
            "it's",
            "a&b;c",
            "[甲](1)",
        ),
        *(
            "a@b",
            "100%",
            "C:\\数据\\",
            'say "去"',
            "去北京,吃饭",
            "http://h:1/v1?x=1&y=2",
            "a\\'b",
            "{甲",
            "甲]",
            "[甲](1)",
        ),
    ],
)
def test_a_value_is_what_it_looks_like(value: str) -> None:
    assert value_of(f"predictions={value}") == value
    assert compose.load([f"data.source={value}"]).data.source == value


def test_what_hydra_reads_stays() -> None:
    arguments = ["a=1", "b=[1,2]", "c={d: 1}", "e='x,y'", "f=${seed}", "+g.h=null", "~i", "j=range(1,3)", "k=a\\b"]
    assert read_arguments(arguments, CONF) == arguments


def test_items_of_lists_and_mappings_are_quoted_one_by_one() -> None:
    assert value_of("annotators=[甲.jsonl,乙=丙 (1).jsonl,c.jsonl]") == ["甲.jsonl", "乙=丙 (1).jsonl", "c.jsonl"]
    assert value_of("data.files={train: [训练.json, b.json], dev: []}") == {"train": ["训练.json", "b.json"], "dev": []}
    assert value_of('runs=["a,b",甲]') == ["a,b", "甲"]


def test_a_sweep_divides_at_commas() -> None:
    assert read_arguments(["-m", "name=甲,乙,c"], CONF) == ["name='甲','乙',c", "-m"]


def test_flags_may_stand_between_overrides() -> None:
    given = ["task=predict", "--config-dir", "search/best", "prompt=searched", "-m", "seed=1,2", "--config-name=own"]
    flags = ["--config-dir", "search/best", "-m", "--config-name=own"]
    assert read_arguments(given, CONF) == ["task=predict", "prompt=searched", "seed=1,2", *flags]


@pytest.mark.parametrize("topic", [[], ["defaults-tree"]])
def test_a_flag_with_or_without_a_value_takes_no_override_for_it(topic: list[str]) -> None:
    assert read_arguments(["a=1", "--info", *topic, "~b", "c=2"], CONF) == ["a=1", "~b", "c=2", "--info", *topic]


def test_random_texts_survive() -> None:
    chance = random.Random(0)
    for _ in range(500):
        text = "x" + "".join(chance.choices("ab甲乙 '\"\\=#()&[]{},:;$", k=chance.randint(1, 8)))
        if "${" not in text:  # an interpolation, which is meant
            assert OverridesParser.create().parse_override(f"name={quote(text)}").value() == text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-m", "seed=1,2", "--cfg=job"], "--multirun --cfg: flags that cannot be combined. Give one of them."),
        (["model=char_bilsm"], "model: no choice is called 'char_bilsm'. Did you mean char_bilstm?"),
        (["model=[char_bilstm,bert_tiny]"], "To run each of them: -m model=char_bilstm,bert_tiny"),
        (["head=softmax,crf"], "To run each of them: -m head=softmax,crf"),
        (["head=null"], "head: no choice"),
        (["seed=1,2"], "seed: several values: 1,2. To run each of them: -m seed=1,2"),
        (["annotators=a,b"], "annotators=[a,b]"),
        (["name=a,b"], """If it is one text: "name='a,b'\""""),
        (["modle=x"], "modle: unknown key. Did you mean model?"),
        (["modle.hidden=8"], "modle: unknown key. Did you mean model?"),
        (["model.hiden=8"], "model.hiden: unknown key. Did you mean model.hidden?"),
        (["trainer.max_epoch=8"], "Did you mean trainer.max_epochs?"),
        (["data.files.extra=[a.jsonl]"], "To add it: +data.files.extra=[a.jsonl]"),
        (["data.files={extra: [a.jsonl]}"], "keys are not there yet. To add them: +data.files={extra:"),
        (["split.shares=[0.8,0.2]"], "split.shares: [0.8,0.2] is not a group of keys. Give a group of keys, each with"),
        (["learning_rate=1e-3"], "learning_rate: unknown key. Did you mean model.learning_rate?"),
        (["patience=3"], "patience: unknown key. Did you mean trainer.patience?"),
        (["num_train_epochs=3"], "num_train_epochs: unknown key. Did you mean trainer.max_epochs?"),
        (["trainer.bf16=true"], "trainer.bf16: unknown key. Did you mean trainer.precision?"),
        (["prompt.template=x"], "prompt.template: unknown key. Did you mean prompt.instruction?"),
        (["export_dir=x"], "export_dir: unknown key. Did you mean task=convert (to=merged output=...)?"),
        (["template=qwen"], "template: unknown key. Did you mean model.chat_template?"),
        (["model.zzz=1"], "unknown key. Known: architecture, bigram_dim,"),  # several kinds have it, named once
        (
            ["model=hfl/some-bert"],
            "model=path (an encoder) or model=causal_path, with model.path=hfl/some-bert. Known:",
        ),
        (["data=conf"], "A corpus of your own: data=own data.root=conf. Known:"),
        (["data=README.md"], "data=own data.files.train=[README.md]; task=split divides it. Known:"),
        (["prompt=mine.yaml"], "--config-dir FOLDER, with FOLDER/prompt/mine.yaml, and prompt=mine. Known:"),
        (["data=own", "data.files.dev=dev.jsonl"], "Give a list of texts, such as data.files.dev=[dev.jsonl]."),
        (["train"], "train: no key=value. Write key=value, such as task=train"),
        (["--cgf", "job"], "--cgf: unknown flag. Did you mean --cfg?"),
    ],
)
def test_a_mistake_is_told_with_the_argument_to_type(arguments: list[str], message: str) -> None:
    try:
        compose.load(arguments)
    except Exception as error:
        told = error if isinstance(error, UserError) else explain_override(error, arguments, CONF)
    assert message in str(told)
    assert "_encoder" not in str(told), "a file that choices extend is no choice"


@pytest.mark.parametrize(
    ("said", "key"),
    [
        (
            "Could not find 'hydra/launcher/joblib'\n\nAvailable options in 'hydra/launcher':\n\tbasic\n",
            "hydra/launcher",
        ),
        (
            "In 'hydra/sweeper/maximize_f1': Could not load 'hydra/sweeper/optuna'.\nConfig search path:\n",
            "hydra/sweeper",
        ),
    ],
)
def test_an_absent_plugin_of_hydra_is_told_with_what_installs_it(said: str, key: str) -> None:
    told = str(explain_override(HydraException(said), [], CONF))
    assert told.startswith(f"{key}: ")
    assert told.endswith("pip install 'omniner[sweep]'")


def test_other_launchers_are_told_with_those_that_are_there() -> None:
    said = "Could not find 'hydra/launcher/joblob'\n\nAvailable options in 'hydra/launcher':\n\tbasic\n\tjoblib\n\nX"
    told = str(explain_override(HydraException(said), [], CONF))
    assert told == "hydra/launcher: no choice is called 'joblob'. Did you mean joblib? Known: basic, joblib."


def test_what_other_names_are_answered_with_is_there() -> None:
    keys = set(every_key(Config)) | set(field_types(Config))
    for ours in ELSEWHERE:
        words = ours.partition(" (")[0].replace(" or ", " ").split()
        for word in words:
            group, equals, choice = word.partition("=")
            known = word.removesuffix(".train").removesuffix(".dev").removesuffix(".test") in keys
            assert (CONF / group / f"{choice}.yaml").is_file() if equals else known, word


def test_other_mistakes_are_left_to_hydra() -> None:
    assert explain_override(ValueError("else"), [], CONF) is None


@pytest.mark.parametrize(
    ("arguments", "folders"),
    [
        (["--config-dir", "mine", "seed=1"], [Path("mine")]),
        (["seed=1", "--config-dir=a b"], [Path("a b")]),
        (["-cd=mine", "-c", "job"], [Path("mine")]),
        (["hydra.searchpath=['a b',file:///c,pkg://d]", "-cd", "mine"], [Path("mine"), Path("a b"), Path("/c")]),
        (["+hydra.searchpath=[a]", "hydra.searchpath=[b]"], [Path("a")]),
        (["hydra.searchpath=a"], []),
        (["hydra.searchpath=[a"], []),
        (["-c", "job", "-cn", "x"], []),
        (["--config-dir"], []),
        ([], []),
    ],
)
def test_the_folders_of_ones_own_groups_are_found(arguments: list[str], folders: list[Path]) -> None:
    assert own_folders(arguments) == folders


@pytest.mark.parametrize(
    ("content", "line", "said"),
    [
        (b"name: a\n\troot: b\n", ":2", "not YAML: found character"),
        (b"name: a\nname: b\n", ":2", "not YAML: found duplicate key name"),
        (b"name: a\0\n", "", "not YAML: special characters"),
        ("# a\n# 语料\n".encode("gb18030"), ":2", "not UTF-8. Convert it, for example: iconv -f GB18030"),
        ("name: a\n".encode("utf-16"), ":1", "not UTF-8. Convert it, for example: iconv -f UTF-16"),
    ],
)
def test_a_file_of_ones_own_that_is_no_yaml_is_named(content: bytes, line: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "fine.yaml").write_text("name: 语料\n", encoding="utf-8")
    (tmp_path / "data" / "mine.yaml").write_bytes(content)
    with pytest.raises((YAMLError, UnicodeDecodeError)) as raised:
        OmegaConf.load(tmp_path / "data" / "mine.yaml")
    found = explain_own_file(raised.value, ["--config-dir", str(tmp_path), "data=mine"])
    assert str(found).startswith(f"{tmp_path / 'data' / 'mine.yaml'}{line}: {said}")


def test_other_text_that_cannot_be_decoded_is_not_the_fault_of_a_file(tmp_path: Path) -> None:
    assert explain_own_file(UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"), [f"--config-dir={tmp_path}"]) is None
