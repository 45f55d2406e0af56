from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from omniner.config.groups import Config, DataConfig, MetricsConfig, StatsConfig, TaskConfig
from omniner.config.model_groups import HeadConfig, PromptConfig, TrainerConfig
from omniner.config.validate import Number, PositiveShare, Share, field_types, take_apart, validate
from omniner.errors import UserError
from omniner.registry import FORMATS, HEADS, TASKS

METRICS = {
    "unit": "auto",
    "profile": "own",
    "on_parse_failure": "empty",
    "bootstrap": 10,
    "confidence": 0.95,
    "seed": 0,
}


def message(annotation: Any, raw: Any, where: str = "") -> str:
    with pytest.raises(UserError) as raised:
        validate(annotation, raw, where)
    assert "\n" not in str(raised.value)
    return str(raised.value)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"units": "pair"}, "metrics.units: unknown key. Did you mean metrics.unit?"),
        ({"zzz": 1, "seed": "x"}, "metrics.zzz: unknown key. Known: bootstrap, "),
        (
            {"unit": "pairs"},
            "metrics.unit: 'pairs' is not a choice. Did you mean pair? Choose one of: auto, pair, ",
        ),
        ({"unit": 3}, "metrics.unit: 3 is not a choice. Choose one of: auto, pair, span."),
        ({"bootstrap": "a"}, "metrics.bootstrap: 'a' is not a whole number. Give a whole number from 0 on."),
        ({"bootstrap": True}, "metrics.bootstrap: true is not a whole number."),
        ({"bootstrap": 2.0}, "metrics.bootstrap: 2.0 is not a whole number."),
        ({"bootstrap": "2"}, "metrics.bootstrap: '2' is not a whole number."),
        ({"bootstrap": -1}, "metrics.bootstrap: -1 is below 0. Give a whole number from 0 on."),
        ({"bootstrap": None}, "metrics.bootstrap: null is not a whole number."),
        ({"confidence": 1}, "metrics.confidence: 1 is not a share. Give a share from 0 to below 1."),
        ({"confidence": True}, "metrics.confidence: true is not a share."),
        ({"confidence": "high"}, "metrics.confidence: 'high' is not a share."),
    ],
)
def test_a_mistake_is_one_line(change: dict[str, Any], said: str) -> None:
    assert message(MetricsConfig, {**METRICS, **change}, "metrics").startswith(said)


def test_what_is_missing_comes_after_what_is_unknown_and_before_what_does_not_fit() -> None:
    without = {key: value for key, value in METRICS.items() if key != "profile"}
    assert message(MetricsConfig, {**without, "seed": "x", "profil": "own"}, "metrics") == (
        "metrics.profil: unknown key. Did you mean metrics.profile?"
    )
    assert message(MetricsConfig, {**without, "seed": "x"}, "metrics") == (
        "metrics.profile: this key is missing. Add it, or choose a metrics from conf/."
    )


def test_numbers_may_be_whole_or_spelt() -> None:
    assert validate(MetricsConfig, {**METRICS, "confidence": 0}).confidence == 0.0
    read = validate(MetricsConfig, {**METRICS, "confidence": "9e-1"})
    assert read == MetricsConfig("auto", "own", "empty", 10, 0.9, 0)


def test_a_group_that_is_none_and_a_kind_that_is_none_are_named() -> None:
    assert message(MetricsConfig, 3, "metrics") == (
        "metrics: a group of keys is expected, 3 was found. Choose a metrics from conf/."
    )
    model = field_types(Config)["model"]
    for raw in ({"kind": "lstm"}, {}, None):
        assert message(model, raw, "model").endswith("is no kind of model. Choose one of: bilstm, encoder, causal.")


def test_keys_inside_a_key_are_checked_where_they_are_known() -> None:
    texts = field_types(PromptConfig)["system"]
    assert message(texts, {"chinese": ""}, "prompt.system") == "prompt.system.chinese: unknown key. Known: en, zh."
    shares, files = field_types(StatsConfig)["warn"], field_types(DataConfig)["files"]
    assert message(shares, {"leakage": 2}, "stats.warn").startswith("stats.warn.leakage: 2 is not a share.")
    assert message(files, {"dev": ["a", 1]}, "data.files").startswith("data.files.dev: 1 is not text.")


@pytest.fixture(params=[(TASKS, TaskConfig, "name"), (HEADS, HeadConfig, "kind"), (FORMATS, DataConfig, "format")])
def added(request: pytest.FixtureRequest) -> Iterator[tuple[Any, str]]:
    registry, group, key = request.param
    registry.add(SimpleNamespace(name="dummy", meaning="Nothing."))
    yield field_types(group)[key], key
    registry.remove("dummy")


def test_what_is_registered_is_a_choice(added: tuple[Any, str]) -> None:
    annotation, key = added
    assert validate(annotation, "dummy", key) == "dummy"
    said = message(annotation, "dumm", key)
    assert said.startswith(f"{key}: 'dumm' is not a choice. Did you mean dummy?")
    assert said.endswith(", dummy.") or ", dummy, " in said


@pytest.mark.parametrize(
    ("annotation", "said"),
    [
        (int, "a whole number"),
        (str | None, "text"),
        (Share, "a share from 0 to below 1"),
        (PositiveShare, "a share above 0 and below 1"),
        (Number, "a number"),
        (list[str], "a list of texts"),
        (dict[str, list[int]], "a group of keys, each with a list of whole numbers"),
        (field_types(TrainerConfig)["max_steps"], "a whole number from -1 on"),
        (field_types(TrainerConfig)["schedule"], "one of: constant, linear, cosine"),
    ],
)
def test_a_type_is_described(annotation: Any, said: str) -> None:
    assert take_apart(annotation).describe() == said


def test_every_number_may_be_spelt() -> None:
    for group in [group for item in field_types(Config).values() for group in take_apart(item).groups]:
        for key, annotation in field_types(group).items():
            named = f"{group.__name__}.{key}"
            assert "float" not in str(annotation) or "Converted" in str(annotation), f"{named}: use Number"
