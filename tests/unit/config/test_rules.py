"""Rules between values, which the configuration that a command composes is checked against."""

from __future__ import annotations

import pytest

from omniner.config import compose
from omniner.errors import UserError


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
        (["trainer.max_steps=0"], r"^trainer\.max_steps: 0 steps train nothing\. Give 1 or more; -1 = no limit"),
        (["tuning=lora"], r"^tuning\.method: lora is for causal models"),
        (["trainer.devices=3", "trainer.batch_size=32"], r"trainer\.batch_size: 32 sentences do not divide over 3"),
        (["metrics.profile=official", "metrics.unit=span"], r"metrics\.unit: the official profile counts pairs"),
        (["tracking=server"], r"tracking\.uri: "),
        (["decoding.api_key_env=sk-proj-1"], r"decoding\.api_key_env: no name of an environment variable"),
        (["teacher.api_key_env=sk-proj-1"], r"teacher\.api_key_env: no name of an environment variable"),
        (["+decoding.options.api-key=sk-1"], r"decoding\.options\.api-key: a secret among the options.*VLLM_API_KEY"),
        (["+decoding.extra_body.a.api_key=sk-1"], r"decoding\.extra_body\.a\.api_key: a secret among the options"),
        (
            ["task=predict", "decoding=openai", "decoding.url=http://h/v1", "decoding.scores=true"],
            r"decoding\.scores: a server gives no confidence per entity",
        ),
        (
            ["task=predict", "decoding=openai", "decoding.url=http://h/v1", "decoding.min_score=0.5"],
            r"decoding\.min_score: a server gives no confidence per entity",
        ),
        (["decoding.min_score=1.5"], r"decoding\.min_score: 1\.5 is above 1\. Give a number from 0 to 1 or null"),
        (["tracking.uri=http://host:5000"], r"tracking\.uri: tracking=local takes no address.*tracking=server"),
        (["data.root=."], r"data\.root: the corpus sample is generated and has no files\. Choose data=own"),
        (["+data.files.train=[a]"], r"data\.files: the corpus sample is generated"),
        (["text=[\udce4\udcbb\udc8a]"], r"is no UTF-8 text\. The locale is not that of the text: set LC_ALL=C\.UTF-8"),
        (["predictions=p\udcff.jsonl"], r"predictions: 'p\\udcff\.jsonl' is no UTF-8 text"),
    ],
)
def test_a_broken_rule_is_one_line_with_its_key(overrides: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        compose.load(overrides)
    assert "\n" not in str(caught.value)
