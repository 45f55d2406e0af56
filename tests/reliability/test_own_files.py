"""The files of a run are read as if a stranger had written them: a clear message, or on from the last whole record."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from omniner.config import compose
from omniner.errors import UserError
from omniner.files import whole_lines
from omniner.guidance.lessons import read_guidance
from omniner.runs import sweep
from omniner.runs.folder import STATE, claim_folder, read_state
from omniner.scoring.predictions import prediction_from_line
from omniner.tasks.train import CURVES, CurveRecorder, read_curves
from omniner.tracking.spool import Spool, read_line
from omniner.tracking.tracked_run import Run
from omniner.training import fit
from tests.helpers import made_up_guidance

GOOD = '{"digest": "d", "status": "killed", "task": "train", "started": 1.5, "run_id": ""}'
DAMAGE = {
    "empty": b"",
    "NUL": b"\0" * 80,
    "half": GOOD[:40].encode(),
    "not UTF-8": GOOD.encode()[:20] + b"\xff\xfe" + GOOD.encode()[20:],
    "a list": b"[1, 2]",
    "a number": b"7",
    "wrong kind": b'{"digest": 3, "status": "killed"}',
    "wrong start": b'{"digest": "d", "status": "killed", "started": "soon"}',
    "deep": b"[" * 100_000,
}


@pytest.fixture(autouse=True)
def _in_tmp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_state_is_named_and_resume_never_starts_over(damage: bytes) -> None:
    claim_folder(compose.load(["output_dir=outputs/a-1", "name=a"])).close()
    Path("outputs/a-1", STATE).write_bytes(damage)
    Path("outputs/a-1/predictions.jsonl").write_text("{}\n")
    for command in (["output_dir=outputs/a-1", "name=a"], ["name=a"], ["resume=outputs/a-1"]):
        with pytest.raises(UserError, match=r"outputs/a-1/run_state\.json:1: .*resume=never"):
            claim_folder(compose.load(command))
    folder = claim_folder(compose.load(["output_dir=outputs/a-1", "name=a", "resume=never"]))
    folder.close()
    assert read_state(folder.path)["status"] == "running"
    assert not (folder.path / "predictions.jsonl").exists()


@pytest.mark.parametrize("damage", [b"", b"\0\0", b"[]", b'{"started": "x"}', b"\xff"])
def test_a_damaged_state_of_a_sweep_is_named(damage: bytes, tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / sweep.SWEEP_STATE).write_bytes(damage)
    with pytest.raises(UserError, match=r"sweep\.json:1: .*resume=never"):
        sweep._find_unfinished([tmp_path / "one"], "d")


@pytest.mark.parametrize(
    "tail", [b"", b'{"id": "3", "te', b"\0" * 100, b"\xff\xfe\n", b"\0\0\n\xff\n", "三".encode()[:2]]
)
def test_work_goes_on_from_the_last_whole_record(tail: bytes, tmp_path: Path) -> None:
    path = tmp_path / "predictions.jsonl"
    whole = '{"id": "1"}\n{"id": "二"}\n'.encode()
    path.write_bytes(whole + tail)
    assert whole_lines(path) == ['{"id": "1"}', '{"id": "二"}']
    assert path.read_bytes() == whole


def test_bytes_that_are_no_text_before_a_whole_record_are_named(tmp_path: Path) -> None:
    path = tmp_path / "predictions.jsonl"
    path.write_bytes(b'{"id": "1"}\n\xff\n{"id": "2"}\n')
    with pytest.raises(UserError, match=r"predictions\.jsonl:2: bytes that are no UTF-8 text"):
        whole_lines(path)


def _guidance(text: str) -> object:
    Path("guidance.json").write_text(text, encoding="utf-8", errors="surrogateescape")
    return read_guidance(Path("guidance.json"))


def _curves(text: str) -> object:
    Path(CURVES).write_text(text, encoding="utf-8", errors="surrogateescape")
    return read_curves(Path())


def _spool(text: str) -> object:
    Path("spool.jsonl").write_text(text, encoding="utf-8", errors="surrogateescape")
    with contextlib.closing(Spool(Path("spool.jsonl"))) as spool:
        return spool


def _state(text: str) -> object:
    Path(STATE).write_text(text, encoding="utf-8", errors="surrogateescape")
    return read_state(Path())


READERS: dict[str, tuple[Callable[[str], object], str]] = {
    "guidance.json": (_guidance, json.dumps(made_up_guidance.guidance(6, examples=1).to_json(), ensure_ascii=False)),
    "curves.jsonl": (_curves, '{"step": 1, "train/loss": 0.5}\n{"step": 2, "train/loss": 0.25}\n'),
    "spool": (
        _spool,
        '{"run": "r", "store": "s"}\n{"seq": 1, "kind": "metrics", "time": 1, "body": {"values": {}}}\n{"sent": 1}\n',
    ),
    "run_state.json": (_state, GOOD),
    "predictions.jsonl": (prediction_from_line, '{"id": "1", "entities": [{"text": "a", "category": "b"}], "raw": ""}'),
}


@pytest.mark.parametrize("name", READERS)
def test_what_is_whole_is_taken(name: str) -> None:
    reader, good = READERS[name]
    assert reader(good)


@st.composite
def _damaged(draw: st.DrawFn, good: str) -> str:
    """A good text of which a part is lost, doubled, or replaced by something else."""
    start, end = sorted((draw(st.integers(0, len(good))), draw(st.integers(0, len(good)))))
    pieces = ["", "\0", "\udcff", "{", "]", '"', "\n", "null", "-1e999", "[[", good[start:end] * 2]
    return good[:start] + draw(st.sampled_from(pieces) | st.text(max_size=8)) + good[end:]


@pytest.mark.parametrize("name", READERS)
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_whatever_stands_in_them_is_taken_or_refused(name: str, data: st.DataObject) -> None:
    reader, good = READERS[name]
    text = data.draw(_damaged(good))
    with contextlib.suppress(UserError):
        reader(text.encode("utf-8", "replace").decode() if name == "predictions.jsonl" else text)


@pytest.mark.parametrize("line", ["7", "[]", "{}", '{"sent": null}', '{"kind": "status"}', '{"kind": 1, "seq": "x"}'])
def test_a_line_that_is_none_of_a_spool_is_refused(line: str) -> None:
    with pytest.raises((ValueError, KeyError, TypeError)):
        read_line(line)


def test_rows_that_come_again_after_a_kill_stand_once(tmp_path: Path) -> None:
    first = CurveRecorder(Run(), tmp_path)
    for step in range(0, 50, 10):
        first.metrics({"train/loss": step / 10}, step)
    first.metrics({"val/f1": 0.5}, 40)
    with (tmp_path / CURVES).open("ab") as file:
        file.write(b'{"step": 50, "tra')
    again = CurveRecorder(Run(), tmp_path)  # the last checkpoint was that of step 20
    for step in range(30, 70, 10):
        again.metrics({"train/loss": step / 10 if step != 40 else 7.0}, step)
    again.metrics({"val/f1": 0.5}, 40)
    rows = [json.loads(line) for line in (tmp_path / CURVES).read_text().splitlines()]
    keys = [(row["step"], *sorted(row.keys() - {"step"})) for row in rows]
    assert len(keys) == len(set(keys)) == 8
    assert read_curves(tmp_path)["train/loss"] == [(s, 7.0 if s == 40 else s / 10) for s in range(0, 70, 10)]


@pytest.mark.parametrize("damage", ["empty", "half", "NUL inside", "other bytes", "code"])
def test_a_damaged_checkpoint_says_resume_never(damage: str, tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    torch.save({"tagger": {}, "state": torch.arange(5000)}, path)
    whole = path.read_bytes()
    middle = whole.index(torch.arange(5000).numpy().tobytes()[:800])
    changed = {
        "empty": b"",
        "half": whole[: len(whole) // 2],
        "NUL inside": whole[:middle] + b"\0" * 4000 + whole[middle + 4000 :],
        "other bytes": b"\x80\x02}q\x00(X\x06" + b"x" * 1000,
        "code": b"cos\nsystem\n(S'true'\ntR.",
    }
    path.write_bytes(changed[damage])
    with pytest.raises(UserError, match="resume=never to train anew; the best weights") as caught:
        fit._check_same(path, None)  # type: ignore[arg-type]  # it does not come to that
    assert "weights_only" not in str(caught.value)
