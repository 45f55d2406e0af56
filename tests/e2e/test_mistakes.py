"""A user's mistake: one message that names the key or file:line, exit status 2, nothing half-written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.e2e.conftest import omniner

GOOD_LINE = '{"prompt": "", "label": "[[\\"面膜\\", \\"品牌\\"]]", "predict": "[]"}'


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["modle=char_bilstm"], "modle"),
        (["model=char_bilsm"], "char_bilsm"),
        (["trainer.max_epoch=3"], "trainer.max_epoch"),
        (["+trainer.max_epoch=3"], "Did you mean trainer.max_epochs?"),
        (["trainer.max_epochs=soon"], "trainer.max_epochs: 'soon' is not a whole number"),
        (["data=cluener", "data.root=nowhere"], "data.root"),
        (["task=score", "predictions=none.jsonl"], "predictions: none.jsonl does not exist"),
        (["task=predict", "checkpoint=empty"], "checkpoint"),
        (["task=predict", "checkpoint=nowhere"], "checkpoint: 'nowhere' is no file, no folder, and no run"),
        (["task=predict", "checkpoint=outputs/nowhere"], "checkpoint: outputs/nowhere does not exist"),
        (["tracking=server", "tracking.uri=http://127.0.0.1:9"], "tracking.uri"),
        (["trainer.accelerator=gpu", "debug=fast", "tracking=off"], "trainer.accelerator"),
        (["trainer=gpu"], "trainer.accelerator"),
        (["model=path", "model.path=/no/such/model"], "model.path: /no/such/model does not exist"),
        (["model=path", "model.path=empty"], "model.path: empty holds no config.json"),
        (["model=bert_base_chinese"], "model.path: google-bert/bert-base-chinese is not in the hub's cache"),
        (["output_dir=taken/below", "debug=fast"], "taken"),
        (["tuning.rank=4"], "tuning.rank: it is for causal models; taggers always train all weights. Leave it out."),
    ],
)
def test_one_message_and_status_2(tmp_path: Path, overrides: list[str], message: str) -> None:
    (tmp_path / "taken").write_text("a file, not a folder")
    (tmp_path / "empty").mkdir()
    elsewhere = {"HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(tmp_path / "empty")}
    result = omniner(*overrides, cwd=tmp_path, status=2, variables=elsewhere)
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, result.stderr
    assert message in errors[0]
    assert "Traceback" not in result.stderr
    assert not list(tmp_path.glob("outputs/*")), "a run that could not begin leaves no folder"
    assert not (tmp_path / "mlruns").exists(), "and no record of itself"


def test_a_broken_line_in_a_predictions_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "p.jsonl").write_text(f"{GOOD_LINE}\nnot json\n", encoding="utf-8")
    result = omniner("task=score", "predictions=p.jsonl", "tracking=off", "output_dir=out", cwd=tmp_path)
    issues = (tmp_path / "out" / "issues.jsonl").read_text(encoding="utf-8")
    assert "p.jsonl" in issues
    assert '"line": 2' in issues
    assert "issues: 1 bad-line" in result.stderr


def test_answers_of_which_none_can_be_read_are_no_result(tmp_path: Path) -> None:
    line = json.dumps(
        {"prompt": "", "label": '[["北京", "地点"]]', "predict": "<think>句子里有北京"}, ensure_ascii=False
    )
    (tmp_path / "p.jsonl").write_text(f"{line}\n{line}\n", encoding="utf-8")
    result = omniner("task=score", "predictions=p.jsonl", "tracking=off", "output_dir=out", cwd=tmp_path, status=2)
    assert "none of 2 answers can be read" in result.stderr
    assert "breaks off while the model thinks" in result.stderr


def test_a_category_outside_the_taxonomy_is_named(tmp_path: Path) -> None:
    root = tmp_path / "corpus"
    root.mkdir()
    line = (
        '{"id": "1", "text": "喝小满", "entities": [{"text": "小满", "category": "品类_产吕", "start": 1, "end": 3}]}\n'
    )
    for split in ("train", "dev", "test"):
        (root / f"{split}.jsonl").write_text(line, encoding="utf-8")
    overrides = ["data=own", f"data.root={root}", "data.taxonomy=omniner2025"]
    result = omniner(*overrides, "tracking=off", cwd=tmp_path, status=2)
    assert "品类_产吕" in result.stderr
    assert "品类_产品" in result.stderr
    assert "Traceback" not in result.stderr
