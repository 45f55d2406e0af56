"""The loop from the command line: a run, notes on its errors, a prompt of them; never from the reported split."""

from __future__ import annotations

import json
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from omniner.answers import write_answer
from omniner.config import compose
from omniner.corpus import sources, taxonomy
from omniner.tasks import prompting
from tests.e2e import warm
from tests.e2e.conftest import TINY, TINY_CAUSAL, environment, folder_of, omniner, runs_in
from tests.helpers import made_up_guidance
from tests.helpers.scripted_server import Answer, Seen, error, reply, serving

pytestmark = pytest.mark.slow

DATA = TINY[0]
CHECK = ["task=check", *(item for item in TINY_CAUSAL if not item.startswith("data")), DATA, "prompt=errta"]
OMNINER2025 = taxonomy.load_taxonomy("omniner2025")
VERDICT = json.dumps({"verdict": "usual", "reason": "通常如此"}, ensure_ascii=False)


def answer(request: Seen, before: int) -> Answer:
    """What a good teacher says."""
    return reply(VERDICT if "verdict" in request.text else made_up_guidance.teacher_note(request.text))


def guidance(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "guidance.json").read_text(encoding="utf-8")))


@pytest.fixture(scope="module")
def guided(trained: tuple[Path, Path]) -> tuple[Path, Path, Path]:
    """Where it all was started, the run, and the folder of its notes."""
    cwd, run = trained
    return cwd, run, folder_of(omniner("task=guide", f"run={run}", "name=notes", cwd=cwd), cwd)


def test_notes_are_about_dev_and_name_their_run(guided: tuple[Path, Path, Path]) -> None:

    cwd, run, folder = guided
    found = guidance(folder)
    assert (found["split"], found["from_test"], found["teacher"]) == ("dev", False, {"kind": "none"})
    assert found["scores"]["sentences"] == 32
    examples = [example["id"] for lesson in found["lessons"] for example in lesson["examples"]]
    assert examples
    assert all(name.startswith("dev-") for name in examples)
    counted = sum(lesson["count"] for lesson in found["lessons"]) + found["rest"]["errors"]
    assert counted == found["scores"]["errors"] == sum(found["types"].values())
    for name in ("guidance.md", "guidance.html", "predictions.jsonl", "gold.jsonl", "tables/lessons.csv"):
        assert (folder / name).stat().st_size > 0
    [tracked] = runs_in(cwd, "attributes.run_name = 'notes'")
    source = json.loads((run / "run_state.json").read_text())["run_id"]
    assert tracked.data.tags["guide.run"] == source
    assert source in tracked.data.tags["guide.link"]
    assert tracked.data.metrics["guide/errors"] == counted


def test_the_same_command_gives_the_same_notes(guided: tuple[Path, Path, Path]) -> None:
    cwd, run, folder = guided
    again = folder_of(omniner("task=guide", f"run={run}", "tracking=off", cwd=cwd, anew=True), cwd)
    ours, theirs = guidance(folder), guidance(again)
    assert [ours.pop("source"), theirs.pop("source")]
    assert ours == theirs


def test_a_prompt_is_made_of_them_by_id_and_name(
    guided: tuple[Path, Path, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    cwd, _, folder = guided
    run_id = json.loads((folder / "run_state.json").read_text())["run_id"]
    result = omniner(*CHECK, f"prompt.from_run={run_id}", "prompt.max_tokens=700", cwd=cwd)
    assert "lessons" in result.stderr
    text = (folder_of(result, cwd) / "prompt.txt").read_text(encoding="utf-8")
    assert guidance(folder)["lessons"][0]["note"]["rule"]["zh"] in text
    assert "小满去喝杯奶茶" not in text  # of the generic examples
    monkeypatch.chdir(cwd)
    for number, named in enumerate(("notes", str(folder))):
        config = compose.load([*CHECK, f"prompt.from_run={named}", "prompt.max_tokens=700"])
        copies = tmp_path / str(number)
        copies.mkdir()
        prompting.place_guidance(config, copies, OMNINER2025.categories, [])
        assert config.prompt.errors["zh"] in text


def test_the_store_gives_notes_whose_folder_is_gone(
    guided: tuple[Path, Path, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    cwd, _, folder = guided
    monkeypatch.chdir(cwd)
    moved = folder.rename(tmp_path / "moved")
    try:
        config = compose.load([*CHECK, "prompt.from_run=notes"])
        found = prompting.place_guidance(config, tmp_path, OMNINER2025.categories, [])
    finally:
        moved.rename(folder)
    assert found is not None
    assert found.to_json() == guidance(folder)


def test_the_reported_split_is_refused_unless_it_is_said_loudly(guided: tuple[Path, Path, Path]) -> None:
    cwd, run, _ = guided
    refused = omniner("task=guide", f"run={run}", "guide.split=test", "tracking=off", cwd=cwd, status=2)
    assert "error: guide.split: test is the split that is reported" in refused.stderr
    allowed = ["guide.split=test", "guide.allow_test=true", "tracking=off"]
    result = omniner("task=guide", f"run={run}", *allowed, cwd=cwd)
    folder = folder_of(result, cwd)
    assert guidance(folder)["from_test"] is True
    assert "scores with it are no test" in result.stdout


def test_notes_on_another_split_of_the_same_sentences_are_refused(guided: tuple[Path, Path, Path]) -> None:
    """What is dev for the one run is reported by the other."""
    cwd, _, folder = guided
    result = omniner("task=convert", "to=jsonl", DATA, "output=own", "tracking=off", cwd=cwd)
    assert "written: own" in result.stdout
    files = ["data=own", "data.root=own", "data.files.train=[sample_train.jsonl]", "data.files.dev=[sample_test.jsonl]"]
    files += ["data.files.test=[sample_dev.jsonl]", "data.taxonomy=omniner2025"]
    small = [item for item in CHECK if not item.startswith("data")]
    refused = omniner(*small, *files, f"prompt.from_run={folder}", "tracking=off", cwd=cwd, status=2)
    assert "of its examples stand in the split that this run reports on" in refused.stderr


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([], "run: task=guide needs it"),
        (["run=nothing"], "run: 'nothing' is no file"),
        (["run=empty"], "run: empty is no run"),
        (["run=notes"], "is a run of task=guide: there is no model to predict with"),
        (["run=x", "teacher.kind=openai"], "teacher.url"),
    ],
)
def test_a_mistake_is_one_line(guided: tuple[Path, Path, Path], overrides: list[str], message: str) -> None:
    cwd, _, _ = guided
    (cwd / "empty").mkdir(exist_ok=True)
    result = omniner("task=guide", *overrides, cwd=cwd, status=2)
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert message in errors[0]
    assert "Traceback" not in result.stderr


def test_a_teacher_writes_the_notes(guided: tuple[Path, Path, Path]) -> None:
    cwd, run, _ = guided
    with serving(answer) as server:
        asked = ["task=guide", f"run={run}", "teacher=openai", f"teacher.url={server.url}", "teacher.model=big"]
        result = omniner(*asked, "teacher.cache=first_cache", "tracking=off", cwd=cwd)
        seen = len(server.seen)
    found = guidance(folder_of(result, cwd))
    assert seen == len(found["lessons"]) + len(found["suspects"])
    assert found["teacher"] == {
        "kind": "openai", "name": "big", "asked": seen, "cached": 0,
        "prompt_tokens": 7 * seen, "completion_tokens": 3 * seen,
    }  # fmt: skip
    assert {lesson["note"]["by"] for lesson in found["lessons"]} == {"big"}
    assert {suspect["verdict"] for suspect in found["suspects"]} <= {"usual"}
    assert all(lesson["note"]["rule"]["zh"].startswith("先通读整句再标注：") for lesson in found["lessons"])


def test_a_killed_run_goes_on_and_asks_for_the_rest(guided: tuple[Path, Path, Path], tmp_path: Path) -> None:
    cwd, run, _ = guided
    reached, go_on = threading.Event(), threading.Event()

    def script(request: Seen, before: int) -> Answer:
        if len(server.seen) > 3 and not go_on.is_set():
            reached.set()
            go_on.wait(300)
        return answer(request, before)

    with serving(script) as server:
        asked = ["task=guide", f"run={run}", "teacher=openai", f"teacher.url={server.url}", "teacher.concurrency=1"]
        asked += ["teacher.model=big", "tracking.folder=" + str(cwd / "mlruns")]
        process = warm.start(asked, tmp_path, environment())
        assert reached.wait(300)
        _wait_for(lambda: len(list((tmp_path / "outputs" / "teacher_cache").rglob("*.json"))) == 3)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -9
        (folder,) = (tmp_path / "outputs").glob("guide-*")
        before = (folder / "predictions.jsonl").stat().st_mtime_ns, len(server.seen)
        go_on.set()
        result = omniner(*asked, cwd=tmp_path)
        assert folder_of(result, tmp_path) == folder
        assert "sentences predicted" not in result.stderr
        found = guidance(folder)
        assert found["teacher"]["cached"] == 3
        assert len(server.seen) - before[1] == len(found["lessons"]) + len(found["suspects"]) - 3
        assert not found["failures"]


def test_what_was_done_is_kept_when_the_teacher_turns_out_to_be_none(
    guided: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    _, run, _ = guided
    works = threading.Event()

    def script(request: Seen, before: int) -> Answer:
        return answer(request, before) if works.is_set() else error(401, "no such key")

    with serving(script) as server:
        asked = ["task=guide", f"run={run}", "teacher=openai", f"teacher.url={server.url}", "tracking=off"]
        result = omniner(*asked, "teacher.model=big", cwd=tmp_path, status=2)
        assert "teacher.api_key_env" in result.stderr
        assert "what was done is kept" in result.stderr
        (folder,) = (tmp_path / "outputs").glob("guide-*")
        assert (folder / "predictions.jsonl").is_file()
        works.set()
        result = omniner(*asked, "teacher.model=big", cwd=tmp_path)
        assert folder_of(result, tmp_path) == folder
        assert "sentences predicted" not in result.stderr


def test_a_causal_models_errors_are_explained_too(tmp_path: Path) -> None:
    """Also without training: the prompt of the run, and its server, answer for dev."""
    dev = sources.load_corpus(compose.load([DATA]).data, ["dev"]).splits["dev"]
    known = next(sentence for sentence in dev if sentence.entities)

    def script(request: Seen, before: int) -> Answer:
        right = request.text.rpartition("句子：")[2] == known.text
        return reply(write_answer(known.entities, "official") if right else "[]")

    with serving(script) as server:
        asked = ["decoding=openai", f"decoding.url={server.url}", "prompt=errta", DATA, "tracking=off"]
        run = folder_of(omniner("task=predict", *asked, cwd=tmp_path), tmp_path)
        notes = folder_of(omniner("task=guide", f"run={run}", "tracking=off", cwd=tmp_path), tmp_path)
        assert {lesson["kind"] for lesson in guidance(notes)["lessons"]} == {"missing"}
        again = folder_of(omniner("task=predict", *asked, f"prompt.from_run={notes}", cwd=tmp_path), tmp_path)
        said = [seen.text for seen in server.seen]
    rule = guidance(notes)["lessons"][0]["note"]["rule"]["zh"]
    assert sum(rule in text for text in said) == 40  # the reported split, asked with the notes
    assert (again / "prompt_guidance.json").is_file()


def _wait_for(condition: Any) -> None:
    deadline = time.monotonic() + 300
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)
