"""Runs in a real local store and on a real server: nothing lost, nothing doubled, training never stopped."""

from __future__ import annotations

import atexit
import contextlib
import json
import logging
import os
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.e2e import warm

from omniner import tracking
from omniner.config.groups import TrackingConfig
from omniner.errors import UserError, masked
from omniner.files import write_text
from omniner.tracking import browser, spool, tracked_run
from omniner.tracking import store as tracking_store
from omniner.tracking.spool import RefusedError, Sender, Spool, SpoolRecord
from omniner.tracking.tracked_run import NAME_LENGTH, DataInput, TrackedRun, display_name, safe_name


def config(folder: Path | str, **changes: Any) -> TrackingConfig:
    values = {"kind": "local", "uri": None, "folder": str(folder), "experiment": "omniner", "wait": 0}
    return TrackingConfig(**({**values, "system_metrics": False, "log_model": False} | changes))


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> TrackingConfig:
    """One store for all tests here: making its tables takes two seconds."""
    return config(tmp_path_factory.mktemp("store") / "mlruns")


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Send every 20 ms."""
    monkeypatch.setattr(spool, "INTERVAL", 0.02)
    monkeypatch.setattr(spool, "LONGEST_PAUSE", 0.02)


def begin(store: TrackingConfig, folder: Path, **changes: Any) -> tracked_run.Run:
    values: dict[str, Any] = {"name": "run", "parent": None, "resume_id": None, "tags": {}}
    return tracking.start_run(store, folder=folder, **(values | changes))


def client(store: TrackingConfig) -> Any:
    return tracking_store.open_store(store).client


def history(store: TrackingConfig, run: str, name: str) -> list[tuple[int, float]]:
    return [(metric.step, metric.value) for metric in client(store).get_metric_history(run, safe_name(name))]


# Names


@settings(deadline=None)  # the first example imports MLflow
@given(st.text(max_size=30) | st.text(alphabet="a_x5f./@=召", max_size=30))
def test_every_name_is_taken_by_mlflow_and_comes_back(name: str) -> None:
    tracking_store.import_mlflow()
    from mlflow.utils.validation import _validate_metric_name, _validate_param_name

    safe = safe_name(name)
    _validate_metric_name(safe)
    _validate_param_name(safe)
    if len(safe) < NAME_LENGTH:
        assert display_name(safe) == name


def test_names_that_people_use_stay_readable() -> None:
    assert safe_name("val/f1/地址_省份") == "val/f1/地址_省份"
    assert safe_name("召回@1") == "召回_x40_1"
    for tricky in ("a_xa@5", "..0", "./a//..", ""):
        assert display_name(safe_name(tricky)) == tricky
    long = [safe_name("类" * 300 + end) for end in "ab"]
    assert [len(name) for name in long] == [NAME_LENGTH, NAME_LENGTH]
    assert long[0] != long[1]


# A run in the local store


def test_everything_written_is_in_the_store(
    local: TrackingConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool = tmp_path / "elsewhere.txt"
    tool.write_text("outside the run folder", encoding="utf-8")
    run = begin(local, tmp_path / "out", tags={"说明": "试验"})
    run.params({"trainer.lr": 0.1, "prompt": "长" * 7000, "teacher.url": "https://me:secret@host/v1"})
    for step in range(3):
        run.metrics({"train/loss": 1 / (step + 1), "val/类别/召回@1": step / 10}, step)
    columns, rows = ["类别", "F1"], [["地址", 0.5], ["书名", float("nan")]]
    run.table(columns, rows, "tables/categories.json")
    run.text("<p>好</p>", "report/report.html")
    run.file(tool, "notes")
    (tmp_path / "out/figures/deep").mkdir(parents=True)
    (tmp_path / "out/figures/deep/a.png").write_bytes(b"png")
    run.files(tmp_path / "out/figures", "figures")
    run.datasets([DataInput("cluener", "dev", "f" * 64, str(tool), 7)])
    tool.unlink()
    run.finish("finished")

    data = client(local).get_run(run.id)
    assert (data.info.status, data.info.run_name) == ("FINISHED", "run")
    assert data.data.tags["说明"] == "试验"
    assert data.data.params["trainer.lr"] == "0.1"
    assert len(data.data.params["prompt"]) == 6000
    assert history(local, run.id, "train/loss") == [(0, 1.0), (1, 0.5), (2, 1 / 3)]
    assert history(local, run.id, "val/类别/召回@1") == [(0, 0.0), (1, 0.1), (2, 0.2)]
    kept = Path(client(local).download_artifacts(run.id, ""))
    assert json.loads((kept / "config/params.json").read_text("utf-8"))["prompt"] == "长" * 7000
    assert (kept / "notes/elsewhere.txt").read_text("utf-8") == "outside the run folder"
    assert (kept / "figures/deep/a.png").read_bytes() == b"png"
    # MLflow reads tables through its global address, whatever client it is asked through.
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{Path(local.folder) / 'mlflow.db'}")
    table = client(local).load_table(data.info.experiment_id, "tables/categories.json", [run.id])
    assert table["类别"].tolist() == ["地址", "书名"]
    assert table["F1"].isna().tolist() == [False, True]
    [found] = data.inputs.dataset_inputs
    assert (found.dataset.name, found.dataset.digest) == ("cluener", "f" * 12)
    assert json.loads(found.dataset.profile)["digest"] == "f" * 64
    assert found.tags[0].value == "validation"
    assert not (tmp_path / "out/tracking_files").exists(), "copies of sent artifacts are left behind"


def test_no_secret_is_written(local: TrackingConfig, tmp_path: Path) -> None:
    run = begin(local, tmp_path, tags={"url": "http://me:s3cret@host"})
    run.params({"tracking.uri": "http://me:s3cret@host:5000/x"})
    run.tags({"again": "see https://me:s3cret@host"})
    run.finish("finished")
    kept = Path(client(local).download_artifacts(run.id, ""))
    written = [path.read_text("utf-8") for path in [*kept.rglob("*.json"), *tmp_path.glob("*.jsonl")]]
    written.append(str(client(local).get_run(run.id).to_dictionary()))
    assert len(written) == 3
    assert not [text for text in written if "s3cret" in text]
    assert masked("http://me:s3cret@host:1/a mail a@b") == "http://***@host:1/a mail a@b"


def test_values_that_are_no_numbers_are_told_and_left_out(
    local: TrackingConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = begin(local, tmp_path)
    for step in range(3):
        run.metrics({"loss": float("nan"), "f1": 0.5, "big": float("inf")}, step)
    run.finish("finished")
    assert sorted(client(local).get_run(run.id).data.metrics) == ["f1"]
    assert [record.message for record in caplog.records] == [
        "metric loss is nan at step 0: not written",
        "metric big is inf at step 0: not written",
    ]


def test_off_writes_nothing(tmp_path: Path) -> None:
    run = begin(config(tmp_path / "mlruns", kind="off"), tmp_path / "out")
    run.params({"a": 1})
    run.metrics({"a": float("nan")})
    run.text("a", "a.txt")
    run.table(["a"], [[1]], "a.json")
    run.finish("finished")
    assert (run.id, run.url) == ("", "")
    assert list(tmp_path.iterdir()) == []
    off = config("", kind="off")
    assert tracking.child_runs(off, "") == []
    assert tracking.compare_link(off, ["a"]) == ""


def test_an_artifact_cannot_leave_its_folder(local: TrackingConfig, tmp_path: Path) -> None:
    run = begin(local, tmp_path / "out")
    for path in ("../a.txt", "/a.txt", "a/../../b.txt", ""):
        with pytest.raises(ValueError, match="artifact's path"):
            run.text("x", path)
    run.finish("failed")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]


def test_system_metrics_have_curves(local: TrackingConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("omniner.tracking.tracked_run.SECOND", 0.05)
    store = config(local.folder, system_metrics=True)
    run = begin(store, tmp_path)
    time.sleep(0.4)
    run.finish("killed")
    memory = history(local, run.id, "system/process_memory_usage_megabytes")
    assert len(memory) >= 2
    assert [step for step, _ in memory] == list(range(len(memory)))
    assert all(10 < value < 100_000 for _, value in memory)
    again = begin(store, tmp_path, resume_id=run.id)
    time.sleep(0.2)
    again.finish("finished")
    steps = [step for step, _ in history(local, run.id, "system/process_memory_usage_megabytes")]
    assert steps == list(range(len(steps)))
    assert len(steps) > len(memory)


class NVMLError(Exception):
    pass


class PartOfAGpu:
    """In the place of `pynvml`, on a machine where a GPU is divided: its parts have memory, and no utilization."""

    NVMLError = NVMLError
    nvmlInit = staticmethod(lambda: None)  # noqa: N815
    nvmlDeviceGetCount = staticmethod(lambda: 1)  # noqa: N815
    nvmlDeviceGetHandleByIndex = staticmethod(lambda number: number)  # noqa: N815
    nvmlDeviceGetMemoryInfo = staticmethod(lambda handle: SimpleNamespace(used=3_000_000))  # noqa: N815

    @staticmethod
    def nvmlDeviceGetUtilizationRates(handle: int) -> Any:  # noqa: N802
        raise NVMLError("Not Supported")


def test_what_a_gpu_does_not_tell_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", PartOfAGpu)
    values = tracked_run.MachineMonitor(lambda *_: None, 0)._sample()
    assert {name: value for name, value in values.items() if "gpu" in name} == {
        "system/gpu_0_memory_usage_megabytes": 3.0
    }
    assert "system/system_memory_usage_megabytes" in values


# Going on


def test_resume_goes_on_with_the_same_run_and_doubles_nothing(local: TrackingConfig, tmp_path: Path) -> None:
    first = begin(local, tmp_path)
    first.params({"seed": 1, "trainer.threads": 2})
    first.table(["a"], [[1]], "tables/one.json")
    for step in range(5):
        first.metrics({"loss": step / 10}, step)
    first.finish("killed")
    assert tracking.previous_run_id(tmp_path) == first.id
    second = begin(local, tmp_path, resume_id=first.id)
    assert isinstance(second, TrackedRun)
    assert second._sender.flush(10, 10)
    assert client(local).get_run(first.id).info.status == "RUNNING"
    second.params({"seed": 1, "trainer.threads": 8})
    second.table(["a"], [[2]], "tables/two.json")
    for step in range(3, 8):  # the checkpoint was made before step 3
        second.metrics({"loss": step / 10}, step)
    second.finish("finished")
    data = client(local).get_run(first.id)
    assert second.id == first.id
    assert data.info.status == "FINISHED"
    assert history(local, first.id, "loss") == [(step, step / 10) for step in range(8)]
    assert data.data.params["trainer.threads"] == "2"
    assert {name: value for name, value in data.data.tags.items() if name.startswith("changed.")} == {
        "changed.trainer.threads": "8"
    }
    tables = json.loads(data.data.tags["mlflow.loggedArtifacts"])
    assert [table["path"] for table in tables] == ["tables/one.json", "tables/two.json"]


def test_a_batch_that_is_delivered_twice_counts_once(local: TrackingConfig, tmp_path: Path) -> None:
    run = begin(local, tmp_path)
    run.params({"a": 1})
    for step in range(4):
        run.metrics({"loss": 0.5, "f1": step}, step)
    run.finish("finished")
    path = tmp_path / spool.SPOOL
    lines = path.read_text("utf-8").splitlines()
    path.write_text("".join(f"{line}\n" for line in lines if not line.startswith('{"sent"')), encoding="utf-8")
    begin(local, tmp_path, resume_id=run.id).finish("finished")
    assert history(local, run.id, "f1") == [(0, 0.0), (1, 1.0), (2, 2.0), (3, 3.0)]
    assert client(local).get_run(run.id).info.status == "FINISHED"


def test_a_process_killed_before_it_knew_its_run_leaves_no_second_run(local: TrackingConfig, tmp_path: Path) -> None:
    run = begin(local, tmp_path)
    run.finish("finished")
    client(local).update_run(run.id, "RUNNING")
    (tmp_path / spool.SPOOL).write_text("", encoding="utf-8")
    again = begin(local, tmp_path)
    again.finish("finished")
    assert again.id == run.id


def test_the_rest_of_another_run_goes_to_that_run(local: TrackingConfig, tmp_path: Path) -> None:
    old = begin(local, tmp_path)
    old.finish("killed")
    with (tmp_path / spool.SPOOL).open("a", encoding="utf-8") as file:
        file.write(
            '{"seq": 2, "kind": "metrics", "time": 1, "body": {"values": {"late": 7.0}, "step": 3}}\n{"seq": 3, "ki'
        )
    new = begin(local, tmp_path)
    new.metrics({"early": 1.0})
    new.finish("finished")
    assert new.id != old.id
    assert history(local, old.id, "late") == [(3, 7.0)]
    assert client(local).get_run(new.id).data.metrics == {"early": 1.0}


def test_several_runs_in_one_process_and_their_parent(local: TrackingConfig, tmp_path: Path) -> None:
    parent = begin(local, tmp_path / "sweep", name="sweep")
    runs = [begin(local, tmp_path / name, name=name, parent=parent.id) for name in ("a", "b")]
    for step in range(3):
        for number, run in enumerate(runs):
            run.metrics({"test/召回@1": number + step}, step)
    for run, status in zip(runs, ("finished", "failed"), strict=True):
        run.finish(status)
    found = tracking.child_runs(local, parent.id)
    assert [(child.name, child.status, child.metrics) for child in found] == [
        ("a", "finished", {"test/召回@1": 2.0}),
        ("b", "failed", {"test/召回@1": 3.0}),
    ]
    link = tracking.compare_link(local, [run.id for run in runs])
    tracking.describe_children(parent, found, link, "| a |", "summary.png")
    parent.metrics({"test/召回@1": 2.5, "test/召回@1_sd": 0.5})
    assert parent.finish("finished")
    ended = client(local).get_run(parent.id).data
    assert ended.metrics == {safe_name("test/召回@1"): 2.5, safe_name("test/召回@1_sd"): 0.5}
    first, *rest = ended.tags["mlflow.note.content"].split("\n\n")
    assert first.startswith("2 runs, [compared](#/compare-runs?")
    assert rest == ["| a |", f"![summary.png](get-artifact?path=summary.png&run_uuid={parent.id})"]
    kept = Path(client(local).download_artifacts(parent.id, "tables/children.json"))
    assert json.loads(kept.read_text("utf-8"))["data"][1] == ["b", "FAILED", runs[1].id, 3.0]
    assert re.search(rf"#/compare-runs\?runs=%5B%22{runs[0].id}%22.*&experiments=%5B%22\d+%22%5D$", link)


# The queue, with a store of our own that fails


class Shaky:
    """A store that fails while `down`, and refuses records of kind `bad`."""

    def __init__(self) -> None:
        self.down = False
        self.calls = 0
        self.taken: list[tuple[str, int]] = []

    def __call__(self, run: str, records: Sequence[SpoolRecord]) -> None:
        self.calls += 1
        if self.down:
            raise ConnectionError("away")
        if any(record.kind == "bad" for record in records):
            raise RefusedError("no such kind")
        self.taken += [(run, record.body["n"]) for record in records]


@pytest.fixture
def queue(tmp_path: Path, quick: None) -> Iterator[tuple[Spool, Shaky, Sender]]:
    store = Shaky()
    lines = Spool(tmp_path / "spool.jsonl")
    lines.begin("r", "s")
    sender = Sender(lines, store)
    yield lines, store, sender
    store.down = False
    sender.close(5, 5)


def test_a_store_that_goes_away_loses_nothing_and_is_told_once(
    queue: tuple[Spool, Shaky, Sender], caplog: pytest.LogCaptureFixture
) -> None:
    lines, store, sender = queue
    for n in range(2500):
        if n == 1000:
            assert sender.flush(5, 5)
            store.down, store.calls = True, 0
        lines.add("m", {"n": n})
    begun = time.monotonic()
    assert not sender.flush(0, 30)
    assert time.monotonic() - begun < 5, "flush waits for a store that is away"
    while store.calls < 5:
        time.sleep(0.01)
    assert lines.unsent == 1500
    store.down = False
    assert sender.flush(5, 5)
    assert store.taken == [("r", n) for n in range(2500)]
    messages = [record.message for record in caplog.records if record.levelno >= logging.WARNING]
    assert [message.split("(")[0] for message in messages] == [
        "tracking store fails ",
        "tracking store is back; sending the records that waited",
    ]


def test_what_is_unsent_at_the_end_is_kept_and_sent_by_the_next_process(
    queue: tuple[Spool, Shaky, Sender], tmp_path: Path
) -> None:
    lines, store, sender = queue
    lines.add("m", {"n": 0})
    assert sender.flush(5, 5)
    store.down = True
    lines.add("m", {"n": 1})
    lines.add("m", {"n": 2})
    assert sender.close(0, 5) == 2
    later = Spool(tmp_path / "spool.jsonl")
    assert (later.run, later.unsent, len(later.earlier)) == ("r", 2, 3)
    store.down = False
    later.begin("s", "s")
    later.add("m", {"n": 3})
    assert Sender(later, store).close(5, 5) == 0
    assert store.taken == [("r", 0), ("r", 1), ("r", 2), ("s", 3)]


def test_one_record_that_is_refused_does_not_hold_up_the_others(
    queue: tuple[Spool, Shaky, Sender], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lines, store, sender = queue
    for n in range(10):
        lines.add("bad" if n == 4 else "m", {"n": n})
    assert sender.flush(5, 5)
    assert [n for _, n in store.taken] == [0, 1, 2, 3, 5, 6, 7, 8, 9]
    assert "refuses a bad record: no such kind" in caplog.text
    assert '{"refused": 5, "why": "no such kind"}' in (tmp_path / "spool.jsonl").read_text("utf-8")


def test_a_store_that_is_away_is_not_asked_without_a_pause(
    queue: tuple[Spool, Shaky, Sender], monkeypatch: pytest.MonkeyPatch
) -> None:
    lines, store, sender = queue
    monkeypatch.setattr(spool, "LONGEST_PAUSE", 60.0)
    store.down = True
    lines.add("m", {"n": 1})
    assert not sender.flush(0.5, 5)
    assert 2 <= store.calls <= 5  # it was more than a thousand
    sender._failures = 5000  # two to this power is no number
    assert sender._pause() == 60.0


def test_a_line_that_is_not_all_there_yet_is_read_later(tmp_path: Path) -> None:
    lines = Spool(tmp_path / "spool.jsonl")
    lines.begin("r", "s")
    record = '{"seq": 1, "kind": "m", "time": 1, "body": {"n": 1}}\n'
    for half in (record[:20], record[20:]):
        assert lines.waiting() == []
        with lines.path.open("a", encoding="utf-8") as file:
            file.write(half)
    assert [one.body for one in lines.waiting()] == [{"n": 1}]
    lines.close()


def test_a_batch_is_of_one_run_and_not_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool, "BATCH", 2)
    lines = Spool(tmp_path / "spool.jsonl")
    for run in ("r", "t"):
        lines.begin(run, "s")
        for n in range(3):
            lines.add("m", {"n": n})
    batches = [[(one.run, one.body["n"]) for one in lines.waiting()] for _ in range(5)]
    assert batches == [[("r", 0), ("r", 1)], [("r", 2)], [("t", 0), ("t", 1)], [("t", 2)], []]
    lines.close()


def test_a_run_has_ended_until_it_goes_on_or_another_one_begins(tmp_path: Path) -> None:
    lines = Spool(tmp_path / "spool.jsonl")
    ended = []
    for act in (
        lambda: lines.begin("r", "here"),
        lambda: lines.add_status("finished"),
        lambda: lines.begin("r", "there"),  # the same run by another address
        lambda: lines.add_status("running"),
        lambda: lines.add_status("killed"),
        lambda: lines.begin("t", "there"),
    ):
        act()
        again = Spool(lines.path)
        assert (again.run, again.store, again.ended) == (lines.run, lines.store, lines.ended)
        again.close()
        ended.append((lines.store, lines.ended))
    lines.close()
    assert ended == [
        ("here", False), ("here", True), ("there", True), ("there", False), ("there", True), ("there", False),
    ]  # fmt: skip


def test_the_time_of_a_record_is_in_milliseconds(tmp_path: Path) -> None:
    lines = Spool(tmp_path / "spool.jsonl")
    before = time.time()
    lines.add("m", {"n": 1})
    [record] = lines.waiting()
    assert before - 1 <= record.time / 1000 <= time.time() + 1
    lines.close()


def test_a_broken_spool_is_a_clear_error(tmp_path: Path) -> None:
    path = tmp_path / "spool.jsonl"
    path.write_text('{"run": "r"}\nnot json\n', encoding="utf-8")
    with pytest.raises(UserError, match=r"a broken line .*not json.*Remove this line"):
        Spool(path)


def test_a_line_of_a_spool_is_one_thing(tmp_path: Path) -> None:
    path = tmp_path / tracking.SPOOL
    path.write_text('{"sent": "status", "seq": 2, "kind": "status", "time": 3, "body": {"status": "FINISHED"}}\n')
    with pytest.raises(UserError, match="neither a record nor a mark"):
        Spool(path)


def test_unsent_records_of_a_run_are_told_at_its_end(
    local: TrackingConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    run = begin(local, tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(tracking_store.Store, "_metrics", lambda *_: (_ for _ in ()).throw(OSError("no disk")))
        run.metrics({"f1": 1.0})
        run.text("kept", "note.txt")
        run.finish("finished")
    assert re.search(r"3 tracking records of run \w+ not sent yet, kept in .*tracking_spool", caplog.text)
    assert client(local).get_run(run.id).info.status == "RUNNING"
    begin(local, tmp_path, resume_id=run.id).finish("finished")
    assert history(local, run.id, "f1") == [(0, 1.0)]
    assert client(local).list_artifacts(run.id)[0].path == "note.txt"


def test_a_text_that_the_store_refuses_is_kept(
    local: TrackingConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise RefusedError("no")

    run = begin(local, tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(tracking_store.Store, "_artifacts", refuse)
        run.text("kept", "note.txt")
        assert run.finish("finished"), "nothing waits"
    assert (tmp_path / "tracking_files/note.txt").read_text() == "kept"


# Mistakes


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"kind": "remote"}, "tracking.kind: 'remote'. Choose off, local or server."),
        ({"kind": "server"}, "tracking.uri: missing. Name the server: tracking.uri=http"),
        ({"kind": "server", "uri": "sqlite:///a.db"}, "tracking.uri: 'sqlite:///a.db' is not the address"),
        ({"kind": "server", "uri": "ftp://me:pw@host/"}, "tracking.uri: 'ftp://***@host/' is not the address"),
        ({"kind": "server", "uri": "http://me:pw@host/"}, "tracking.uri: an address with a login in it"),
        ({"kind": "local", "folder": "{tmp}/a?b"}, "tracking.folder: .* holds a '\\?'"),
        ({"kind": "local", "folder": "{tmp}/file/mlruns"}, "tracking.folder: .*file.*Not a directory"),
    ],
)
def test_a_wrong_setting_names_its_key_and_the_remedy(changes: dict[str, Any], expected: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    changes = {name: value.replace("{tmp}", str(tmp_path)) for name, value in changes.items()}
    pattern = expected if ".*" in expected else re.escape(expected)
    with pytest.raises(UserError, match=pattern):
        begin(config(**({"folder": tmp_path} | changes)), tmp_path / "out")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def own_environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Give back the variables that connecting to a server sets."""
    for name in ("TRACKING_USERNAME", "TRACKING_PASSWORD", "HTTP_REQUEST_MAX_RETRIES", "HTTP_REQUEST_TIMEOUT"):
        monkeypatch.setenv(f"MLFLOW_{name}", "")
        monkeypatch.delenv(f"MLFLOW_{name}")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    return monkeypatch


def test_a_server_that_is_not_there_stops_us_before_the_training(
    tmp_path: Path, own_environment: pytest.MonkeyPatch
) -> None:
    own_environment.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    uri = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(UserError, match=r"tracking\.uri: the MLflow server http://127.* Start it"):
        begin(config("", kind="server", uri=uri), tmp_path)
    assert not (tmp_path / spool.SPOOL).exists()


@pytest.mark.parametrize("parent", ["parent", None])
def test_a_child_waits_for_the_server_of_its_parent(
    parent: str | None, local: TrackingConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers: list[Any] = [UserError("tracking.uri", "does not work", "Start it.")] * 2 + [
        tracking_store.open_store(local)
    ]

    def open_store(settings: TrackingConfig) -> tracking_store.Store:
        if isinstance(answer := answers.pop(0), UserError):
            raise answer
        opened: tracking_store.Store = answer
        return opened

    monkeypatch.setattr(tracking, "open_store", open_store)
    monkeypatch.setattr(tracking, "STORE_RETRY_SECONDS", 0.001)
    server = config(local.folder, kind="server", uri="http://127.0.0.1:9", wait=1)
    if parent:
        begin(server, tmp_path, parent=parent).finish("finished")
        assert not answers
    else:
        with pytest.raises(UserError, match="does not work"):
            begin(server, tmp_path)
        assert len(answers) == 2


def test_a_store_that_is_no_database_is_explained(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_text("this is not a database, " * 100, encoding="utf-8")
    with pytest.raises(UserError, match=r"tracking\.folder: .*mlflow\.db .*not a database.*Move "):
        begin(config(tmp_path), tmp_path / "out")


@pytest.mark.parametrize(
    ("said", "fix"), [("database is locked", "Another process is writing it"), ("disk I/O error", "Check the disk")]
)
def test_a_sound_database_is_not_to_be_moved_away(
    said: str, fix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def connect(database: Path) -> None:
        raise sqlite3.OperationalError(said)

    (tmp_path / "mlflow.db").write_bytes(b"a")
    monkeypatch.setattr(tracking_store.sqlite3, "connect", connect)
    with pytest.raises(UserError, match=fix) as refused:
        begin(config(tmp_path), tmp_path / "out")
    assert "Move" not in str(refused.value)


def test_a_store_that_cannot_be_locked_is_explained(tmp_path: Path) -> None:
    (tmp_path / "mlflow.lock").mkdir()
    with pytest.raises(UserError, match=r"tracking\.folder: .*mlflow\.lock: .*Choose a folder you may write to"):
        begin(config(tmp_path), tmp_path / "out")


def test_a_run_or_experiment_that_is_gone_is_explained(local: TrackingConfig, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"resume: run 0123 .*resume=never"):
        begin(local, tmp_path / "a", resume_id="0123")
    run = begin(local, tmp_path / "b")
    run.finish("finished")
    client(local).delete_run(run.id)
    with pytest.raises(UserError, match="was deleted"):
        begin(local, tmp_path / "b", resume_id=run.id)
    child = begin(local, tmp_path / "b", resume_id=run.id, parent="f" * 32)
    assert child.id != run.id, "a child must not keep its parent from going on"
    child.metrics({"f1": 0.5})
    child.finish("finished")
    assert history(local, child.id, "f1") == [(0, 0.5)]
    store = config(local.folder, experiment="old")
    opened = tracking_store.open_store(store)
    opened.client.delete_experiment(opened.experiment)
    with pytest.raises(UserError, match=r"tracking\.experiment: 'old' was deleted"):
        begin(store, tmp_path / "c")


def test_a_killed_child_whose_record_was_deleted_goes_on_in_a_new_one(local: TrackingConfig, tmp_path: Path) -> None:
    folder, parent = tmp_path / "child", "f" * 32
    killed = begin(local, folder, parent=parent)
    killed.metrics({"f1": 0.25})
    atexit.unregister(killed._at_exit)  # type: ignore[attr-defined]
    client(local).delete_run(killed.id)
    again = begin(local, folder, parent=parent, resume_id=killed.id)
    again.metrics({"f1": 0.5}, 1)
    assert again.finish("finished"), "nothing waits for the run that was deleted"
    assert again.id != killed.id
    assert history(local, again.id, "f1") == [(1, 0.5)]
    assert client(local).get_run(again.id).data.tags["mlflow.parentRunId"] == parent


def test_a_store_that_was_moved_or_copied_has_its_files_with_it(tmp_path: Path) -> None:
    def run_with_a_file(name: str) -> str:
        run = begin(store, tmp_path / name)
        run.text("text", f"{name}.txt")
        assert run.finish("finished")
        return run.id

    def files(run: str) -> list[str]:
        return [item.path for item in client(store).list_artifacts(run)]

    store = config(tmp_path / "old 项目" / "mlruns")
    first = run_with_a_file("first")
    elsewhere = (tmp_path / "chosen" / "artifacts" / "mine").as_uri()
    client(store).create_experiment("mine", artifact_location=elsewhere)
    (tmp_path / "old 项目").rename(tmp_path / "new")
    store = config(tmp_path / "new" / "mlruns")
    assert [files(run) for run in (first, run_with_a_file("second"))] == [["first.txt"], ["second.txt"]]
    assert not (tmp_path / "old 项目").exists()
    assert client(store).get_experiment_by_name("mine").artifact_location == elsewhere

    shutil.copytree(tmp_path / "new", tmp_path / "copy")
    store = config(tmp_path / "copy" / "mlruns")
    third = run_with_a_file("third")
    assert [files(first), files(third)] == [["first.txt"], ["third.txt"]]
    assert not list((tmp_path / "new").rglob("third.txt"))
    assert list((tmp_path / "copy").rglob("third.txt"))


# Provenance


def test_git_is_asked_once(local: TrackingConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, ...]] = []

    def git(*arguments: str) -> bytes:
        asked.append(arguments)
        return b"abc"

    monkeypatch.setattr(tracked_run, "_git", git)
    run = begin(config(local.folder), tmp_path)
    run.finish("finished")
    tags = client(local).get_run(run.id).data.tags
    assert (tags["mlflow.source.git.commit"], tags["git.dirty"], tags["git.branch"]) == ("abc", "yes", "abc")
    assert len(asked) == len(set(asked)) == 4


def test_git_state_tells_commit_and_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert tracked_run.git_state() == {}
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-c", "init.defaultBranch=main"]
    (tmp_path / "a.txt").write_text("one\n", encoding="utf-8")
    for command in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "first"]):
        subprocess.run([*git, *command], check=True)
    clean = tracked_run.git_state()
    assert re.fullmatch("[0-9a-f]{40}", clean.pop("commit"))
    assert clean == {"branch": "main", "dirty": "no"}
    digests = set()
    for text in ("two\n", "three\n"):
        (tmp_path / "a.txt").write_text(text, encoding="utf-8")
        state = tracked_run.git_state()
        assert state["dirty"] == "yes"
        digests.add(state["diff"])
    assert len(digests) == 2


def test_versions_are_those_installed() -> None:
    import numpy

    found = tracked_run.library_versions()
    assert found["numpy"] == numpy.__version__
    assert found["python"] == sys.version.split()[0]


def test_importing_tracking_imports_nothing_heavy() -> None:
    code = "import sys, omniner.tracking; print([m for m in ('mlflow','torch','pandas') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# Real processes

WORK = """
import os, sys, time
from dataclasses import replace
from pathlib import Path
from omniner import tracking
from omniner.config.groups import TrackingConfig

kind, address, folder, how = sys.argv[1:]
store = TrackingConfig(kind, address, address, "omniner", False, False, 0)
folder = Path(folder)
run = tracking.start_run(store, name="p", folder=folder, parent=None,
                         resume_id=tracking.previous_run_id(folder), tags={})
print(run.id, flush=True)
try:
    for step in range(int(os.environ.get("STEPS", "20"))):
        run.metrics({"loss": step / 4}, step)
        time.sleep(float(os.environ.get("PAUSE", "0")))
    if how == "raise":
        raise RuntimeError("boom")
    if how == "leave":
        sys.exit(0)
except KeyboardInterrupt:
    run.finish("killed")
else:
    run.finish("finished")
"""


def arguments(store: TrackingConfig, folder: Path, how: str) -> list[str]:
    return [store.kind, store.uri or store.folder, str(folder), how]


def work(store: TrackingConfig, folder: Path, how: str = "finish", **env: str) -> warm.Command:
    script = write_text(folder.parent / "work.py", WORK)
    return warm.start(arguments(store, folder, how), script.parent, os.environ | env, module=script.stem)


def its_run(process: warm.Command, folder: Path, metrics: int) -> str:
    """The run of a process, once it has written so many metrics."""
    deadline = time.monotonic() + 300
    lines = folder / spool.SPOOL
    while not lines.is_file() or lines.read_text("utf-8").count('"metrics"') < metrics:
        assert process.poll() is None, process.said()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return process.said("stdout").strip()


@pytest.mark.slow
def test_two_processes_make_the_store_at_once(tmp_path: Path) -> None:
    store = config(tmp_path / "mlruns")
    # Python is started for both: what is forked has the tables ready
    commands = [[sys.executable, "-c", WORK, *arguments(store, tmp_path / str(n), "finish")] for n in range(2)]
    pipe = subprocess.PIPE
    processes = [subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True) for command in commands]
    outputs = [process.communicate(timeout=300) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    for out, _ in outputs:
        assert history(store, out.strip(), "loss") == [(step, step / 4) for step in range(20)]
    assert len({client(store).get_run(out.strip()).info.experiment_id for out, _ in outputs}) == 1


@pytest.mark.slow
def test_kill_and_start_again_is_one_run(tmp_path: Path) -> None:
    store = config(tmp_path / "mlruns")
    process = work(store, tmp_path / "out", STEPS="100000", PAUSE="0.01")
    run = its_run(process, tmp_path / "out", 1)
    process.kill()
    process.communicate(timeout=300)
    left = Spool(tmp_path / "out" / spool.SPOOL)
    left.close()
    written = [record for record in left.earlier if record.kind == "metrics"]
    assert written
    assert client(store).get_run(run).info.status == "RUNNING"
    out, err = work(store, tmp_path / "out", STEPS=str(len(written) + 5)).communicate(timeout=300)
    assert out.strip() == run, err
    assert history(store, run, "loss") == [(step, step / 4) for step in range(len(written) + 5)]
    data = client(store).get_run(run)
    assert data.info.status == "FINISHED"
    assert len(client(store).search_runs([data.info.experiment_id])) == 1


@pytest.mark.slow
@pytest.mark.parametrize(("how", "expected"), [("interrupt", "KILLED"), ("raise", "FAILED"), ("leave", "FAILED")])
def test_the_end_of_a_process_ends_its_run(how: str, expected: str, local: TrackingConfig, tmp_path: Path) -> None:
    steps = {"STEPS": "100000", "PAUSE": "0.01"} if how == "interrupt" else {}
    process = work(local, tmp_path / "out", how, **steps)
    if how == "interrupt":
        its_run(process, tmp_path / "out", 20)
        process.send_signal(signal.SIGINT)
    run = process.communicate(timeout=300)[0].strip()
    assert client(local).get_run(run).info.status == expected
    assert len(history(local, run, "loss")) >= 20


def serve(folder: Path, port: int) -> subprocess.Popen[bytes]:
    """A real server on the loopback, answering."""
    mlflow = Path(sys.executable).with_name("mlflow")
    command = [str(mlflow), "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{folder}/server.db", "--artifacts-destination", str(folder / "kept")]
    quiet = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    with (folder / "server.log").open("ab") as log:
        process = subprocess.Popen(
            command, cwd=folder, stdout=log, stderr=log, env=os.environ | quiet, start_new_session=True
        )
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    for _ in range(240):
        try:
            with opener.open(f"http://127.0.0.1:{port}/health", timeout=2):
                return process
        except OSError:
            time.sleep(0.25)
    stop(process)
    raise AssertionError((folder / "server.log").read_text("utf-8"))


def stop(process: subprocess.Popen[bytes]) -> None:
    os.killpg(process.pid, signal.SIGKILL)
    process.wait(10)


@pytest.mark.slow
def test_a_server_that_is_killed_and_comes_back_misses_nothing(
    tmp_path: Path, own_environment: pytest.MonkeyPatch, quick: None, caplog: pytest.LogCaptureFixture
) -> None:
    own_environment.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    port = free_port()
    store = config(tmp_path / "notes", kind="server", uri=f"http://127.0.0.1:{port}")
    server = serve(tmp_path, port)
    try:
        run = begin(store, tmp_path / "out", name="remote")
        assert isinstance(run, TrackedRun)
        run.metrics({"loss": 0.0}, 0)
        assert run._sender.flush(20, 20)
        stop(server)
        begun = time.monotonic()
        for step in range(1, 50):
            run.metrics({"loss": step / 2}, step)
        run.text("<p>好</p>", "report.html")
        assert time.monotonic() - begun < 1, "a dead server holds up the training"
        run.finish("finished")
        assert time.monotonic() - begun < 20
        assert f"51 tracking records of run {run.id} not sent yet" in caplog.text
        server = serve(tmp_path, port)
        again = begin(store, tmp_path / "out", resume_id=run.id)
        again.metrics({"loss": 25.0}, 50)
        again.finish("finished")
        assert history(store, run.id, "loss") == [(step, step / 2) for step in range(51)]
        assert client(store).get_run(run.id).info.status == "FINISHED"
        kept = Path(client(store).download_artifacts(run.id, "report.html"))
        assert kept.read_text("utf-8") == "<p>好</p>"
        assert run.url.split("?")[0] == f"http://127.0.0.1:{port}/#/experiments/1/runs/{run.id}"
    finally:
        stop(server)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_lightning_writes_into_the_run(local: TrackingConfig, tmp_path: Path) -> None:
    run = begin(local, tmp_path)
    logger = tracking.lightning_logger(run)
    logger.log_metrics({"train/loss": 0.5, "val/类别/地址": 0.25}, 3)
    logger.log_hyperparams({"hidden": 4})
    logger.finalize("success")
    assert (logger.name, logger.version) == ("omniner", run.id)
    run.finish("finished")
    assert history(local, run.id, "val/类别/地址") == [(3, 0.25)]
    assert client(local).get_run(run.id).data.tags["module.hidden"] == "4"


# What people see of it


def test_an_experiment_opens_on_runs_with_their_scores(local: TrackingConfig) -> None:
    store = tracking_store.open_store(local)
    marks = browser.experiment_tags()
    tags = store.client.get_experiment(store.experiment).tags
    assert tags["mlflow.experimentKind"] == "custom_model_development"
    view = json.loads(tags["mlflow.sharedViewState.omniner"])
    assert "metrics.`test/f1`" in json.loads(view["state"])["selectedColumns"]
    old = store.client.create_experiment("from before")
    assert "from before" not in store.experiments()
    changed = tracking_store.open_store(replace(local, experiment="from before"))
    assert (changed.experiment, changed.experiments()["from before"]) == (old, old)
    assert marks.keys() <= store.client.get_experiment(old).tags.keys()


def test_runs_are_found_in_every_experiment_of_ours(local: TrackingConfig, tmp_path: Path) -> None:
    apart = replace(local, experiment="omniner data")
    run = begin(apart, tmp_path / "out", name="counted", tags={"task": "stats"})
    run.finish("finished")
    assert tracking.find_run(local, "counted", "run").id == run.id
    for said, advice in (("conuted", "Did you mean counted?"), ("base", "Check the path, the id or the name.")):
        with pytest.raises(UserError, match=re.escape(advice)):
            tracking.find_run(local, said, "run")


def test_of_runs_of_one_name_the_only_one_that_did_not_fail_is_meant(local: TrackingConfig, tmp_path: Path) -> None:
    def ended(number: int, status: str) -> str:
        run = begin(local, tmp_path / f"{number}", name="lr0.01")
        run.finish(status)
        return run.id

    good = ended(1, "finished")
    failed = ended(2, "failed")
    ended(3, "killed")
    assert tracking.find_run(local, "lr0.01", "run").id == good
    assert tracking.find_run(local, failed, "run").id == failed
    again = ended(4, "finished")
    day = r"\d{4}-\d\d-\d\d \d\d:\d\d"
    listed = (
        rf"4 runs have the name 'lr0\.01'\. .*: {again} \(finished, {day}\), .*{failed} \(failed, {day}\), {good} \("
    )
    with pytest.raises(UserError, match=listed):
        tracking.find_run(local, "lr0.01", "run")


def test_links_lead_to_the_port_that_the_ui_took(local: TrackingConfig, tmp_path: Path) -> None:
    with contextlib.closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))
        asked = replace(local, port=taken.getsockname()[1])
        port = browser.claim_port(asked)
    assert port > asked.port
    run = begin(asked, tmp_path / "out")
    run.finish("finished")
    assert run.url.startswith(f"http://127.0.0.1:{port}/#/experiments/")
    assert run.page("report.html").startswith(
        f"#/experiments/{tracking_store.open_store(local).experiment}/runs/{run.id}/art"
    )
    assert tracking.compare_link(local, [run.id]).startswith(f"http://127.0.0.1:{port}/#/compare-runs")


def test_a_model_is_registered_once(local: TrackingConfig, tmp_path: Path) -> None:
    run = begin(local, tmp_path / "out")
    run.text("flavors: {}\n", "model/MLmodel")
    run.register("tagger", "model")
    run.register("tagger", "model")
    assert run.finish("finished")
    [version] = client(local).search_model_versions("name = 'tagger'")
    assert (version.run_id, int(version.version)) == (run.id, 1)
    assert version.source.endswith("/model")
