from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import hydra
import pytest
from hydra.core.global_hydra import GlobalHydra
from newer_key import make_new
from omegaconf import OmegaConf

from omniner.config import compose, groups, model_groups
from omniner.config.class_defaults import with_class_defaults, without_class_defaults
from omniner.errors import UserError
from omniner.files import write_text


def test_the_defaults_compose_and_auto_is_settled() -> None:
    config = compose.load([])
    assert config.task.name == "train"
    assert config.head.kind == "crf"
    assert config.name == "char_bilstm-crf-sample"


def test_threads_compose_beside_each_other() -> None:
    pause = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(lambda seed: compose.load([f"seed={seed}"]).seed, range(12)))
    finally:
        sys.setswitchinterval(pause)
    assert found == list(range(12))


def test_the_hydra_of_another_program_is_as_it_was(tmp_path: Path) -> None:
    write_text(tmp_path / "theirs.yaml", "defaults: [data: theirs, _self_]\nmine: 1\n")
    write_text(tmp_path / "data" / "theirs.yaml", "name: their data\n")
    with hydra.initialize_config_dir(str(tmp_path), job_name="theirs", version_base="1.2"):
        holder, running = GlobalHydra.instance(), GlobalHydra.instance().hydra
        assert compose.load(["seed=7"]) == compose.load(["seed=7", "data=sample"])
        assert compose.job_logging().version == 1
        assert (GlobalHydra.instance(), holder.hydra) == (holder, running)
        assert str(hydra.version.getbase()) == "1.2"
        composed = hydra.compose("theirs", return_hydra_config=True)
        assert (composed.mine, composed.data.name, composed.hydra.job.name) == (1, "their data", "theirs")
    assert not GlobalHydra.instance().is_initialized()


@pytest.mark.parametrize(
    ("overrides", "method"),
    [
        (["model=qwen2_tiny"], "full"),
        (["model=qwen2_7b"], "lora"),
        (["model=qwen2_7b", "tuning.method=full"], "full"),
        ([], "full"),
    ],
)
def test_the_method_of_tuning_follows_the_model_unless_it_is_chosen(overrides: list[str], method: str) -> None:
    assert compose.load(overrides).tuning.method == method


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["+trainer.max_epoch=3"], r"trainer\.max_epoch: unknown key\. Did you mean trainer\.max_epochs\?"),
        (["+modell.kind=x"], r"modell: unknown key\. Did you mean model\?"),
        (["trainer.max_epochs=many"], r"trainer\.max_epochs: 'many' is not a whole number"),
        (["trainer.max_epochs=1.5"], r"trainer\.max_epochs: 1\.5 is not a whole number"),
        (["trainer.max_epochs=true"], r"trainer\.max_epochs: true is not a whole number"),
        (["trainer.max_epochs=0"], r"trainer\.max_epochs: 0 is not above 0"),
        (["seed=null"], r"seed: null is not a whole number"),
        (["seed=-1"], r"^seed: -1 is below 0"),
        (["metrics.seed=-1"], r"metrics\.seed: -1 is below 0"),
        (["compare.seed=-1"], r"compare\.seed: -1 is below 0"),
        (["agreement.seed=-1"], r"agreement\.seed: -1 is below 0"),
        (["tuning=lora"], r"^tuning\.method: lora is for causal models"),
        (["head.kind=crff"], r"head\.kind: 'crff' is not a choice\. Did you mean crf\?"),
        (["metrics.confidence=95"], r"metrics\.confidence: 95 is not a share"),
        (["trainer.devices=3", "trainer.batch_size=32"], r"trainer\.batch_size: 32 sentences do not divide over 3"),
        (["task=score"], r"predictions: task=score needs it"),
        (["task=score", "predictions=/no/such/file"], r"predictions: /no/such/file does not exist"),
        (["metrics.profile=official", "metrics.unit=span"], r"metrics\.unit: the official profile counts pairs"),
        (["tracking=server"], r"tracking\.uri: "),
        (["decoding.api_key_env=sk-proj-1"], r"decoding\.api_key_env: no name of an environment variable"),
        (["teacher.api_key_env=sk-proj-1"], r"teacher\.api_key_env: no name of an environment variable"),
        (["+decoding.options.api-key=sk-1"], r"decoding\.options\.api-key: a secret among the options.*VLLM_API_KEY"),
        (["+decoding.extra_body.a.api_key=sk-1"], r"decoding\.extra_body\.a\.api_key: a secret among the options"),
        (["tracking.uri=http://host:5000"], r"tracking\.uri: tracking=local takes no address.*tracking=server"),
        (["data.root=."], r"data\.root: the corpus sample is generated and has no files\. Choose data=own"),
        (["+data.files.train=[a]"], r"data\.files: the corpus sample is generated"),
        (["output=x"], r"output: task=train does not read it, only task=convert, filter, split\. .*output_dir"),
        (["checkpoint=x"], r"checkpoint: task=train does not read it, only task=chat, convert, predict\. "),
        (
            ["task=stats", "input=conf"],
            r"input: task=stats does not read it, only task=convert, filter, predict, split",
        ),
        (["task=check", "text=a"], r"text: task=check does not read it, only task=predict"),
        (["+data.files.train=[1]"], r"data\.files\.train: 1 is not text"),
        (["name=${nothing}"], r"name"),
        (["name=exp/a"], r"^name: 'exp/a' names a folder in a folder\. Give a name without a slash"),
        (["predictions=p\udcff.jsonl"], r"predictions: 'p\\udcff\.jsonl' is no UTF-8 text"),
        (["model=char_bilsm"], r"model: no choice is called 'char_bilsm'\. Did you mean char_bilstm\?"),
        (["modle.hidden=3"], r"modle: unknown key\. Did you mean model\?"),
        (["trainer.max_epoch=3"], r"trainer\.max_epoch: unknown key"),
        (["seed=1,2"], r"seed: several values"),
        (["seed"], r"seed: no key=value"),
        (["+seed=1"], r"overrides: Could not append to config\."),
    ],
)
def test_a_mistake_is_one_line_with_its_key(overrides: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        compose.load(overrides)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("overrides", "found"),
    [
        (["head.label_smoothing=0.1"], {"head.label_smoothing": "a crf head does not read it, only head=softmax"}),
        (
            ["head=span", "head.label_smoothing=0.1", "tuning.rank=4", "task=check"],
            {
                "head.label_smoothing": "a span head does not read it, only head=softmax",
                "tuning.rank": "it is for causal models; taggers always train all weights",
            },
        ),
        (["head=softmax", "head.max_span=9"], {"head.max_span": "a softmax head does not read it, only head=span"}),
        (["model=qwen2_tiny", "head.max_span=9"], {"head.max_span": "a causal model has no head"}),
        (
            ["model=bert_tiny", "tuning.optimizer=adamw_8bit"],
            {"tuning.optimizer": "it is for causal models; taggers always train all weights"},
        ),
    ],
)
def test_a_setting_that_nothing_reads_is_found(overrides: list[str], found: dict[str, str]) -> None:
    assert compose.without_effect(compose.load(overrides)) == found


@pytest.mark.parametrize(
    "overrides",
    [
        ["head.label_smoothing=0.0", "tuning=full", "tuning.rank=16"],
        ["head=softmax", "head.label_smoothing=0.1"],
        ["head=span", "head.max_span=9", "head.biaffine_dim=10", "head.negative_weight=0.5"],
        ["model=qwen2_tiny", "tuning=lora", "tuning.rank=4"],
        # the model comes from a checkpoint or a server; that of the configuration says nothing of it
        ["task=predict", "checkpoint=run", "tuning.rank=4", "head.max_span=9"],
        ["task=chat", "checkpoint=run", "head.max_span=9"],
        ["task=predict", "decoding=openai", "decoding.url=http://localhost:1/v1", "tuning.rank=4"],
    ],
)
def test_a_setting_that_has_an_effect_or_is_the_usual_one_is_taken(overrides: list[str]) -> None:
    assert compose.without_effect(compose.load(overrides)) == {}


def test_a_run_with_a_setting_without_effect_opens(tmp_path: Path) -> None:
    config = compose.load([])
    config.head.label_smoothing, config.tuning.rank = 0.1, 4
    write_text(tmp_path / "config.yaml", compose.to_yaml(config))
    assert compose.read(tmp_path / "config.yaml") == config


def test_a_run_from_before_a_method_of_tuning_opens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has no rate for it; only that of its own method is asked for."""
    older = dataclasses.asdict(compose.load(["model=qwen2_7b"]))
    del older["model"]["learning_rate"]["qlora"]
    write_text(tmp_path / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(older)))
    assert compose.read(tmp_path / "config.yaml").llm.learning_rate.keys() == {"full", "lora"}
    older["tuning"]["method"] = "qlora"
    write_text(tmp_path / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(older)))
    with pytest.raises(UserError, match=r"model\.learning_rate\.qlora: this key is missing"):
        compose.read(tmp_path / "config.yaml")


def test_a_missing_key_is_named() -> None:
    composed = compose.compose([])
    OmegaConf.set_struct(composed, False)
    del composed.trainer["max_epochs"]
    with pytest.raises(UserError, match=r"trainer\.max_epochs: this key is missing"):
        compose.check(composed)


def test_whole_numbers_and_text_exponents_pass_as_numbers() -> None:
    config = compose.load(["trainer.gradient_clip=1", "model.learning_rate=1e-3"])
    assert config.trainer.gradient_clip == 1.0
    assert config.model.learning_rate == 0.001


def test_where_a_run_is_written_does_not_change_what_it_is() -> None:
    same = compose.digest(compose.load(["output_dir=/tmp/x", "tracking=off", "resume=never"]))
    assert same == compose.digest(compose.load([]))
    assert compose.digest(compose.load(["seed=7"])) != same


def test_a_key_that_older_runs_did_not_have_makes_no_other_run_of_them() -> None:
    config = compose.load(["task=adjudicate", "annotators=[a,b]"])
    older = dataclasses.asdict(config)
    del older["adjudicate"]["review"], older["convert"]
    now = dataclasses.asdict(config)
    said = [without_class_defaults(groups.Config, values) for values in (older, now)]
    assert said[0] == said[1] != now
    assert compose.differences(older, config) == compose.differences(config, older) == {}
    other = dataclasses.replace(config, adjudicate=dataclasses.replace(config.adjudicate, review="disputed"))
    assert compose.digest(other) != compose.digest(config)
    assert compose.differences(other, older) == {"adjudicate.review": ("undecided", "disputed")}


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
    assert compose.differences(older, config) == {key: (usual, None)}
    make_new(monkeypatch, group, name, usual)
    assert without_class_defaults(groups.Config, older) == without_class_defaults(groups.Config, now) != now
    assert with_class_defaults(groups.Config, older) == now
    assert compose.differences(older, config) == {}
    other = compose.load([*chosen, f"{key}={usual + 1 if isinstance(usual, int) else 0.5}"])
    assert compose.digest(other) != compose.digest(config)
    assert list(compose.differences(other, older)) == [key]


def test_a_kind_that_there_is_not_is_taken_as_it_stands() -> None:
    strange = {"model": {"kind": ["bilstm"], "name": "mine"}, "head": 3}
    assert without_class_defaults(groups.Config, strange) == strange


def test_differences_are_those_from_the_defaults() -> None:
    changed = compose.differences(compose.load(["seed=7", "trainer.batch_size=8"]), compose.load([]))
    assert changed["seed"] == (42, 7)
    assert set(changed) == {"seed", "trainer.batch_size"}


def test_the_configuration_reads_back_from_its_own_yaml() -> None:
    config = compose.load([])
    assert compose.check(OmegaConf.create(compose.to_yaml(config))) == config


def test_parts_are_taken_from_the_configuration_of_another_run(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(compose.to_yaml(compose.load(["model=qwen2_tiny", "seed=7", "data.seed=3"])), encoding="utf-8")
    taken = compose.adopt(compose.load(["task=guide", "run=x"]), path, ("model", "data", "seed"))
    assert (taken.model.kind, taken.data.seed, taken.seed) == ("causal", 3, 7)
    assert (taken.task.name, taken.head.kind) == ("guide", "crf")


def test_single_keys_are_taken_over_what_was_adopted() -> None:
    ours = compose.load(["encoding.on_too_long=truncate", "data.format=auto", "+data.files.train=[a]"])
    theirs = compose.load(["encoding.max_length=64", "data=own", "data.root=.", "data.taxonomy=flat"])
    found = compose.with_keys_of(ours, ["encoding.on_too_long", "data.files.train"], theirs)
    assert (found.encoding.max_length, found.encoding.on_too_long) == (64, "truncate")
    assert (found.data.name, found.data.files["train"]) == ("own", ["a"])
    assert theirs.encoding.on_too_long != "truncate"
    with pytest.raises(UserError, match=r"model\.hidden: unknown key"):
        compose.with_keys_of(compose.load([]), ["model.hidden"], compose.load(["model=qwen2_tiny"]))


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
        compose.adopt(compose.load([]), path, ("data", "seed"))
    assert raised.value.where == str(path)


def test_a_file_too_long_for_a_configuration_is_not_parsed(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    write_text(path, compose.to_yaml(compose.load([])) * 100)
    with pytest.raises(UserError, match=r"bytes, where a configuration has at most 262,144"):
        compose.read(path)


def test_a_file_of_somebody_else_learns_nothing_of_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_KEY", "hunter2")
    path = tmp_path / "config.yaml"
    reference = "${oc.env:MY_KEY}"
    config = compose.load([])
    config.prompt.system["zh"] = reference
    write_text(path, compose.to_yaml(config))
    assert compose.read(path).prompt.system["zh"] == reference


def test_a_few_lines_do_not_become_any_amount(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    lines = ["a0: &a0 [1, 2, 3, 4]", *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 4)}]" for n in range(1, 6))]
    write_text(path, "\n".join(lines))
    with pytest.raises(UserError, match=r"aliases \(`\*name`\)"):
        compose.read_mapping(path, "Name another one.")


@pytest.mark.parametrize(
    ("overrides", "epochs", "every"),
    [
        ([], 120, 6),  # 10 steps an epoch: as many passes as 1,200 steps are, 20 evaluations
        (["trainer.max_epochs=5"], 5, 1),  # who says how many epochs means just these
        (["trainer.max_epochs=5", "trainer.min_steps=100"], 10, 2),
        (["model=qwen2_tiny"], 40, 5),
        (["debug=fast"], 8, 1),
    ],
)
def test_a_small_corpus_is_passed_over_more_often(overrides: list[str], epochs: int, every: int) -> None:
    trainer = compose.load(overrides).trainer
    assert (trainer.epochs(10), trainer.epochs_between_evaluations(10)) == (epochs, every)
    assert trainer.epochs(1000) == trainer.max_epochs


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
    assert differing == {"TrainerConfig.min_steps": (1200, 0)}, "older runs made so few steps as their passes were"


def test_a_look_at_a_large_corpus_is_as_short_as_one_at_the_sample() -> None:
    short = {"train": 120, "dev": 32, "test": 32}
    for data in ("sample", "msra"):
        assert compose.load(["debug=fast", f"data={data}"]).data.limit == short
    assert compose.load(["debug=fast", "data.limit.train=0"]).data.limit == short | {"train": 0}


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
    opened = dict(_keys_of(compose.read(tmp_path / "config.yaml")))
    assert {key for key, value in _keys_of(config) if opened[key] != value} <= {"trainer.min_steps", "data.limit"}


def _keys_of(group: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every field of a configuration that is no group of fields, by dotted name."""
    for field in dataclasses.fields(group):
        value = getattr(group, field.name)
        if dataclasses.is_dataclass(value):
            yield from _keys_of(value, f"{prefix}{field.name}.")
        else:
            yield f"{prefix}{field.name}", value
