"""The official profile against what the official scripts gave: every rule case, and three sets of 200 samples."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from omniner.config.groups import ErrtaConfig, MetricsConfig
from omniner.scoring import predictions
from omniner.scoring.metrics import ScoreResult, ScoreRow
from omniner.scoring.scorer import score_loaded

OFFICIAL = MetricsConfig(
    unit="auto", profile="official", on_parse_failure="empty", bootstrap=0, confidence=0.95, seed=0
)
ERRTA = ErrtaConfig(mode="auto", examples=5, top=5)
COUNTS = ("classification", "boundary", "split_merge", "missing")
SETS = ("omni_mixed", "cluener_mixed", "quirks_malformed")


def score_lines(lines: list[str], folder: Path) -> ScoreResult:
    path = folder / "generated_predictions.jsonl"
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8", newline="\n")
    return score_loaded(predictions.read_predictions(path, None), OFFICIAL, ERRTA)


def rule_cases(shared: Path) -> list[dict[str, Any]]:
    text = (shared / "reference" / "rule_cases" / "cases.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.split("\n") if line]


def line_of(case: dict[str, Any]) -> str:
    return json.dumps({"prompt": "", "label": case["label"], "predict": case["predict"]}, ensure_ascii=False)


def errta_of(result: ScoreResult) -> dict[str, int]:
    errta = result.errta
    counts = {name: errta.counts[name] for name in COUNTS}
    return {"tp": errta.tp, "fp": errta.fp, "fn": errta.fn, **counts, "extra": errta.counts["redundant"]}


def check_rule_case(case: dict[str, Any], folder: Path) -> None:
    result = score_lines([line_of(case)], folder)
    stops = [issue.message for issue in result.issues if issue.code == "official-stop"]
    outcomes = case["errta_any_of"] or [case["errta"]]
    if "crash" in outcomes[0]:
        assert any(f"ERRTA scripts stop here: {o['crash']}" in stop for o in outcomes for stop in stops)
        assert len(result.errta.crashes) == 1
        assert result.parse.errta_read == 0
    else:
        assert not result.errta.crashes
        read = [outcome for outcome in outcomes if outcome["parsed"]]
        assert result.parse.errta_read == (1 if read else 0)
        if read:
            assert errta_of(result) in [{name: o[name] for name in errta_of(result)} for o in read]
    expected, micro = case["evaluation"], result.metrics.micro
    if "crash" in expected:
        assert any(f"evaluation script stops here: {expected['crash']}" in stop for stop in stops)
        assert result.parse.scored == 0
        return
    assert result.parse.scored == int(expected["scored"])
    assert (micro.tp, micro.fp, micro.fn) == (expected["tp"], expected["fp"], expected["fn"])
    for name in ("precision", "recall", "f1"):
        assert getattr(micro, name) == pytest.approx(expected[name], abs=1e-12)
    if expected["table"] is None:
        assert any("has no table and stops" in stop for stop in stops)
    else:
        assert sorted(result.metrics.categories) == expected["table"]


def test_every_rule_case(shared: Path, tmp_path: Path) -> None:
    cases = rule_cases(shared)
    assert len(cases) == 161
    failures = {}
    for case in cases:
        try:
            check_rule_case(case, tmp_path)
        except AssertionError as error:
            failures[case["name"]] = str(error)
    assert not failures


def test_rule_cases_in_one_file_add_up(shared: Path, tmp_path: Path) -> None:
    """A sample on which the official scripts stop does not disturb the others."""
    cases = rule_cases(shared)
    result = score_lines([line_of(case) for case in cases], tmp_path)
    fixed = [case["errta"] for case in cases if case["errta"] and case["errta"].get("parsed")]
    either = [case["errta_any_of"] for case in cases if case["errta_any_of"]]
    for name, number in errta_of(result).items():
        base = sum(outcome[name] for outcome in fixed)
        low = base + sum(min(outcome[name] for outcome in outcomes) for outcomes in either)
        high = base + sum(max(outcome[name] for outcome in outcomes) for outcomes in either)
        assert low <= number <= high, name
    assert len(result.errta.crashes) == sum("crash" in (case["errta"] or {}) for case in cases)


def check_row(row: ScoreRow, expected: dict[str, float]) -> None:
    ours = (row.precision, row.recall, row.f1, row.support)
    theirs = tuple(expected[name] for name in ("precision", "recall", "f1_score", "support"))
    assert ours == pytest.approx(theirs, abs=1e-12, rel=0)


@pytest.mark.parametrize("name", SETS)
def test_set(name: str, shared: Path) -> None:
    folder = shared / "reference" / name
    expected = json.loads((folder / "expected.json").read_text(encoding="utf-8"))
    result = score_loaded(predictions.read_predictions(folder / "generated_predictions.jsonl", None), OFFICIAL, ERRTA)
    evaluation, metrics = expected["evaluation"], result.metrics
    assert result.parse.sentences == expected["n_samples"]
    assert result.parse.scored == evaluation["n_scored"]
    assert (metrics.micro.tp, metrics.micro.fp, metrics.micro.fn) == tuple(evaluation[k] for k in ("tp", "fp", "fn"))
    for row, average in ((metrics.micro, "micro"), (metrics.macro_seen, "macro"), (metrics.weighted, "weighted")):
        check_row(row, evaluation["averages"][f"{average} avg"])
    assert list(metrics.categories) == sorted(evaluation["per_category"])
    for category, row in metrics.categories.items():
        check_row(row, evaluation["per_category"][category])
    errta = expected["errta"]
    assert result.parse.errta_read == errta["n_parsed"]
    assert result.errta.with_errors == errta["n_samples_with_errors"]
    assert errta_of(result) == {
        **{k: errta[k] for k in ("tp", "fp", "fn")},
        **{k: errta["counts"][k] for k in (*COUNTS, "extra")},
    }
    assert all(sentence.text for sentence in result.sentences.values()), "texts of the test.json beside it"


@pytest.mark.parametrize("name", SETS)
def test_set_sample_by_sample(name: str, shared: Path) -> None:
    folder = shared / "reference" / name
    result = score_loaded(predictions.read_predictions(folder / "generated_predictions.jsonl", None), OFFICIAL, ERRTA)
    ours: dict[str, dict[str, int]] = {
        sentence: dict.fromkeys((*COUNTS, "redundant"), 0) for sentence in result.sentences
    }
    for error in result.errta.errors:
        ours[error.sentence_id][error.type] += 1
    lines = (folder / "per_sample.jsonl").read_text(encoding="utf-8").split("\n")
    for sample in (json.loads(line) for line in lines if line):
        counts = ours[f"line-{sample['i'] + 1}"]
        theirs = {**{key: sample.get(key, 0) for key in COUNTS}, "redundant": sample.get("extra", 0)}
        assert counts == theirs, sample
