from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from later_config_key import make_new
from omegaconf import OmegaConf

from omniner.config import compose, groups, model_groups, run_config
from omniner.config.class_defaults import with_class_defaults, without_class_defaults
from omniner.errors import UserError
from omniner.files import write_text


def test_a_run_with_a_setting_without_effect_opens(tmp_path: Path) -> None:
    config = compose.load([])
    config.head.label_smoothing, config.tuning.rank = 0.1, 4
    write_text(tmp_path / "config.yaml", run_config.to_yaml(config))
    assert run_config.read(tmp_path / "config.yaml") == config


def test_a_run_from_before_a_method_of_tuning_opens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has no rate for it; only that of its own method is asked for."""
    older = dataclasses.asdict(compose.load(["model=qwen2_7b"]))
    del older["model"]["learning_rate"]["qlora"]
    write_text(tmp_path / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(older)))
    assert run_config.read(tmp_path / "config.yaml").llm.learning_rate.keys() == {"full", "lora"}
    older["tuning"]["method"] = "qlora"
    write_text(tmp_path / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(older)))
    with pytest.raises(UserError, match=r"model\.learning_rate\.qlora: this key is missing"):
        run_config.read(tmp_path / "config.yaml")


def test_where_a_run_is_written_does_not_change_what_it_is() -> None:
    same = run_config.digest(compose.load(["output_dir=/tmp/x", "tracking=off", "resume=never"]))
    assert same == run_config.digest(compose.load([]))
    assert run_config.digest(compose.load(["seed=7"])) != same
    assert run_config.digest(compose.load(["decoding.min_score=null"])) == same
    assert run_config.digest(compose.load(["decoding.min_score=0.5"])) != same


def test_a_key_that_older_runs_did_not_have_makes_no_other_run_of_them() -> None:
    config = compose.load(["task=adjudicate", "annotators=[a,b]"])
    older = dataclasses.asdict(config)
    del older["adjudicate"]["review"], older["convert"]
    now = dataclasses.asdict(config)
    said = [without_class_defaults(groups.Config, values) for values in (older, now)]
    assert said[0] == said[1] != now
    assert run_config.differences(older, config) == run_config.differences(config, older) == {}
    other = dataclasses.replace(config, adjudicate=dataclasses.replace(config.adjudicate, review="disputed"))
    assert run_config.digest(other) != run_config.digest(config)
    assert run_config.differences(other, older) == {"adjudicate.review": ("undecided", "disputed")}


@pytest.mark.parametrize(
    ("model", "key", "group"),
    [
        ("char_bilstm", "model.members", model_groups.BiLSTMConfig),
        ("bert_tiny", "model.layer_decay", model_groups.EncoderConfig),
        ("qwen2_tiny", "model.vocabulary", model_groups.CausalConfig),
        ("char_bilstm", "head.label_smoothing", model_groups.HeadConfig),
    ],
)
def test_a_key_that_a_model_did_not_have_makes_no_other_run_of_it(
    model: str, key: str, group: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = [f"model={model}", *(["head=softmax"] if group is model_groups.HeadConfig else [])]
    config = compose.load(chosen)
    now, older = dataclasses.asdict(config), dataclasses.asdict(config)
    section, _, name = key.partition(".")
    usual = older[section].pop(name)
    assert run_config.differences(older, config) == {key: (usual, None)}
    make_new(monkeypatch, group, name, usual)
    assert without_class_defaults(groups.Config, older) == without_class_defaults(groups.Config, now) != now
    assert with_class_defaults(groups.Config, older) == now
    assert run_config.differences(older, config) == {}
    other = compose.load([*chosen, f"{key}={usual + 1 if isinstance(usual, int) else 0.5}"])
    assert run_config.digest(other) != run_config.digest(config)
    assert list(run_config.differences(other, older)) == [key]


def test_a_kind_that_there_is_not_is_taken_as_it_stands() -> None:
    strange = {"model": {"kind": ["bilstm"], "name": "mine"}, "head": 3}
    assert without_class_defaults(groups.Config, strange) == strange


def test_differences_are_those_from_the_defaults() -> None:
    changed = run_config.differences(compose.load(["seed=7", "trainer.batch_size=8"]), compose.load([]))
    assert changed["seed"] == (42, 7)
    assert set(changed) == {"seed", "trainer.batch_size"}


def test_the_configuration_reads_back_from_its_own_yaml() -> None:
    config = compose.load([])
    assert compose.to_config(OmegaConf.create(run_config.to_yaml(config))) == config


def test_parts_are_taken_from_the_configuration_of_another_run(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(run_config.to_yaml(compose.load(["model=qwen2_tiny", "seed=7", "data.seed=3"])), encoding="utf-8")
    taken = run_config.with_sections_of(compose.load(["task=guide", "run=x"]), path, ("model", "data", "seed"))
    assert (taken.model.kind, taken.data.seed, taken.seed) == ("causal", 3, 7)
    assert (taken.task.name, taken.head.kind) == ("guide", "crf")


def test_single_keys_are_taken_over_what_was_adopted() -> None:
    ours = compose.load(["encoding.on_too_long=truncate", "data.format=auto", "+data.files.train=[a]"])
    theirs = compose.load(["encoding.max_length=64", "data=own", "data.root=.", "data.taxonomy=flat"])
    found = run_config.with_keys_of(ours, ["encoding.on_too_long", "data.files.train"], theirs)
    assert (found.encoding.max_length, found.encoding.on_too_long) == (64, "truncate")
    assert (found.data.name, found.data.files["train"]) == ("own", ["a"])
    assert theirs.encoding.on_too_long != "truncate"
    with pytest.raises(UserError, match=r"model\.hidden: unknown key"):
        run_config.with_keys_of(compose.load([]), ["model.hidden"], compose.load(["model=qwen2_tiny"]))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "not a configuration"),
        ("a: \udcff", "not a configuration"),  # a byte that is no UTF-8
        ("a: " + "[" * 5000, "not a configuration"),
        ("- 1", "not the configuration of a run"),
        ("data: {}", "seed is missing"),
        ("data: {}\nseed: 1", r"data\.name: this key is missing"),
        ("data: {old: 1}\nseed: 1", r"data\.old: unknown key"),
        ("data: 3\nseed: x", "a group of keys is expected"),
    ],
)
def test_a_file_that_is_no_configuration_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(UserError, match=message) as raised:
        run_config.with_sections_of(compose.load([]), path, ("data", "seed"))
    assert raised.value.where == str(path)


def test_a_file_too_long_for_a_configuration_is_not_parsed(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    write_text(path, run_config.to_yaml(compose.load([])) * 100)
    with pytest.raises(UserError, match=r"bytes, where a configuration has at most 262,144"):
        run_config.read(path)


def test_a_file_of_somebody_else_learns_nothing_of_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_KEY", "hunter2")
    path = tmp_path / "config.yaml"
    reference = "${oc.env:MY_KEY}"
    config = compose.load([])
    config.prompt.system["zh"] = reference
    write_text(path, run_config.to_yaml(config))
    assert run_config.read(path).prompt.system["zh"] == reference


def test_a_few_lines_do_not_become_any_amount(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    lines = ["a0: &a0 [1, 2, 3, 4]", *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 4)}]" for n in range(1, 6))]
    write_text(path, "\n".join(lines))
    with pytest.raises(UserError, match=r"aliases \(`\*name`\)"):
        run_config.read_mapping(path, "Name another one.")


def _groups_in(value: Any) -> Iterator[Any]:
    """A group and all groups in it."""
    yield value
    for field in dataclasses.fields(value):
        if dataclasses.is_dataclass(inner := getattr(value, field.name)):
            yield from _groups_in(inner)


def test_what_older_runs_lack_is_what_conf_says() -> None:
    chosen = [["model=qwen2_tiny", "decoding=free"], ["model=bert_tiny"], []]
    met: dict[tuple[str, str], Any] = {}
    for group in (group for one in chosen for group in _groups_in(compose.load(one))):
        met |= {(type(group).__name__, field.name): getattr(group, field.name) for field in dataclasses.fields(group)}
    kinds = [kind for module in (groups, model_groups) for kind in vars(module).values() if isinstance(kind, type)]
    compared, differing = 0, {}
    for kind in filter(dataclasses.is_dataclass, kinds):
        for field in dataclasses.fields(kind):
            factory = field.default_factory
            usual = field.default if factory is dataclasses.MISSING else factory()
            if usual is not dataclasses.MISSING and not dataclasses.is_dataclass(usual):
                value = met[kind.__name__, field.name]
                if isinstance(value, dict):  # 0 sentences of a split are no limit, as no entry is
                    value = {key: one for key, one in value.items() if one != 0}
                compared += 1
                if value != usual:
                    differing[f"{kind.__name__}.{field.name}"] = (value, usual)
    assert compared >= 10
    assert differing == {
        "TrainerConfig.min_steps": (1200, 0),  # older runs made so few steps as their passes were
        "EncoderConfig.fold_characters": (True, False),  # older models read such characters as [UNK]
    }


@pytest.mark.parametrize("model", ["char_bilstm", "bert_tiny", "qwen2_tiny"])
def test_a_run_of_the_first_version_opens(model: str, tmp_path: Path) -> None:
    """Its configuration lacks every key that came later; a new key without a default is missed here."""
    config = compose.load([f"model={model}"])
    known = set((Path(__file__).parent / "keys_of_0_1_0.txt").read_text(encoding="utf-8").split())
    raw: dict[str, Any] = {}
    for key, value in _keys_of(config):
        if key in known:
            *above, name = key.split(".")
            place = raw
            for part in above:
                place = place.setdefault(part, {})
            place[name] = value
    OmegaConf.save(OmegaConf.create(raw), tmp_path / "config.yaml")
    opened = dict(_keys_of(run_config.read(tmp_path / "config.yaml")))
    changed = {key for key, value in _keys_of(config) if opened[key] != value}
    assert changed <= {"trainer.min_steps", "data.limit", "model.fold_characters"}


def _keys_of(group: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every field of a configuration that is no group of fields, by dotted name."""
    for field in dataclasses.fields(group):
        value = getattr(group, field.name)
        if dataclasses.is_dataclass(value):
            yield from _keys_of(value, f"{prefix}{field.name}.")
        else:
            yield f"{prefix}{field.name}", value


def test_runs_on_the_same_sentences_of_a_program_are_the_same_wherever_their_copies_are() -> None:
    def of(root: str, digest: str) -> groups.Config:
        config = compose.load(["data=own", f"data.root={root}"])
        return dataclasses.replace(config, data=dataclasses.replace(config.data, from_memory={"train": digest}))

    one, moved, other = of("a", "1"), of("b", "1"), of("a", "2")
    assert run_config.digest(one) == run_config.digest(moved) != run_config.digest(other)
    assert run_config.differences(moved, one) == {}
    assert run_config.differences(other, moved) == {"data.from_memory.train": ("1", "2")}
