"""The loop from the command line: a run, notes on its errors, a prompt of them; never from the reported split."""

from __future__ import annotations

import json
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from omniner.answers import render_answer
from omniner.config import compose
from omniner.corpus import sources, taxonomy
from omniner.files import write_json_lines
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
        told, _ = prompting.with_guidance(config, copies, OMNINER2025.categories, [])
        assert told.prompt.errors["zh"] in text


def test_the_store_gives_notes_whose_folder_is_gone(
    guided: tuple[Path, Path, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    cwd, _, folder = guided
    monkeypatch.chdir(cwd)
    moved = folder.rename(tmp_path / "moved")
    try:
        config = compose.load([*CHECK, "prompt.from_run=notes"])
        _, found = prompting.with_guidance(config, tmp_path, OMNINER2025.categories, [])
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
    assert seen == len(found["lessons"]) + len(found["suspects"]) + len(found["controls"])
    assert found["teacher"] == {
        "kind": "openai", "name": "big", "asked": seen, "cached": 0,
        "prompt_tokens": 7 * seen, "completion_tokens": 3 * seen,
    }  # fmt: skip
    assert {lesson["note"]["by"] for lesson in found["lessons"]} == {"big"}
    assert {suspect["verdict"] for suspect in found["suspects"]} <= {"unclear" if found["controls"] else "usual"}
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
        asked = [*found["lessons"], *found["suspects"], *found["controls"]]
        assert len(server.seen) - before[1] == len(asked) - 3
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
        return reply(render_answer(known.entities, "official") if right else "[]")

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


def answered(path: Path, questions: list[dict[str, Any]], rules: int = 1) -> Path:
    """A file with a good answer to each question, every other one as a chat model wrote it."""
    lines = []
    for number, question in enumerate(questions):
        said = VERDICT if "verdict" in question["question"] else made_up_guidance.teacher_note(question["question"])
        if rules > 1 and "verdict" not in question["question"]:
            note = json.loads(said)
            note["rules"] = [f"{note['rule']}{mark}" for mark in ("。", f"，{GOOD}。")]
            said = json.dumps({key: note[key] for key in ("cause", "rules", "doubtful")}, ensure_ascii=False)
        lines.append({"id": question["id"], "answer": f"好的：\n{said}" if number % 2 else json.loads(said)})
    write_json_lines(path, lines)
    return path


def questions_of(folder: Path) -> list[dict[str, Any]]:
    lines = (folder / "questions.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def test_a_person_answers_the_questions(guided: tuple[Path, Path, Path], tmp_path: Path) -> None:
    _, run, counted = guided
    asked = ["task=guide", f"run={run}", "teacher=file", "tracking=off"]
    first = omniner(*asked, cwd=tmp_path)
    folder = folder_of(first, tmp_path)
    questions, notes = questions_of(folder), guidance(folder)
    assert len(questions) == notes["teacher"]["questions"] > len(notes["lessons"])
    assert not any(question["answer"] for question in questions)
    assert [lesson["note"] for lesson in notes["lessons"]] == [
        lesson["note"] for lesson in guidance(counted)["lessons"]
    ]
    shown = f"{folder.relative_to(tmp_path)}/questions.jsonl"
    assert (
        f"Without an answer: {len(questions)} questions. Write each answer in place of null in {shown}" in first.stdout
    )
    assert f"Next: the same command with teacher=file teacher.file={shown} as its teacher" in first.stdout
    assert shown in (folder / "guidance.html").read_text(encoding="utf-8")

    stray = {**questions[0], "id": "0123"}
    path = answered(tmp_path / "answers.jsonl", [*questions[2:], stray])
    result = omniner(*asked, "teacher.file=answers.jsonl", cwd=tmp_path)
    found = guidance(folder_of(result, tmp_path))
    known = {"kind": "file", "name": "answers.jsonl", "questions": len(questions), "answered": len(questions) - 2}
    assert found["teacher"] == {**known, "other": 1}
    assert "\n  1 answer to questions that this run does not ask left out.\n" in result.stdout
    assert [lesson["note"]["by"] for lesson in found["lessons"][:3]] == ["counts", "counts", "answers.jsonl"]
    assert found["lessons"][2]["note"]["rule"]["zh"].startswith("先通读整句再标注：")
    assert [one["question"] for one in found["failures"]] == [
        f"{one['kind']}: {' → '.join(filter(None, (one['gold'], one['predicted'])))}" for one in found["lessons"][:2]
    ]
    assert f"answers.jsonl, {len(questions) - 2} of {len(questions)} questions answered" in result.stdout
    assert "Without an answer: 2 questions." in result.stdout

    path.write_text(path.read_text(encoding="utf-8").replace("先通读整句", "先数一数"), encoding="utf-8")
    again = omniner(*asked, "teacher.file=answers.jsonl", cwd=tmp_path)
    changed = guidance(folder_of(again, tmp_path))
    assert "taking the predictions" not in again.stderr
    assert changed["lessons"][2]["note"]["rule"]["zh"].startswith("先数一数")


def test_answers_in_the_folder_of_the_questions_need_no_new_predictions(
    guided: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    _, run, _ = guided
    asked = ["task=guide", f"run={run}", "teacher=file", "tracking=off"]
    folder = folder_of(omniner(*asked, cwd=tmp_path), tmp_path)
    path = answered(folder / "answers.jsonl", questions_of(folder))
    anew = omniner(*asked, f"teacher.file={path}", "name=other", "output_dir=anew", cwd=tmp_path)
    assert f"taking the predictions of {folder}" in anew.stderr
    assert "sentences predicted in" not in anew.stderr
    known = folder / "predictions.jsonl"
    assert (tmp_path / "anew" / "predictions.jsonl").read_bytes() == known.read_bytes()

    other = omniner(*asked, f"teacher.file={path}", "guide.split=train", "output_dir=other", cwd=tmp_path, status=2)
    assert "taking the predictions" not in other.stderr  # they are of other sentences


def test_a_wrong_answer_is_refused_by_its_line_and_the_same_command_goes_on(
    guided: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    _, run, _ = guided
    asked = ["task=guide", f"run={run}", "teacher=file", "tracking=off"]
    questions = questions_of(folder_of(omniner(*asked, cwd=tmp_path), tmp_path))
    path = answered(tmp_path / "answers.jsonl", questions)
    lines = path.read_text(encoding="utf-8").splitlines()
    spoilt = json.dumps({"id": questions[1]["id"], "answer": {"rule": "小心"}}, ensure_ascii=False)
    path.write_text("\n".join([lines[0], spoilt, *lines[2:]]), encoding="utf-8")
    command = [*asked, "teacher.file=answers.jsonl"]
    refused = omniner(*command, "output_dir=a/notes", cwd=tmp_path, status=2)
    [error] = [line for line in refused.stderr.splitlines() if line.startswith("error: ")]
    assert error.startswith(f"error: answers.jsonl:2: the answer to {questions[1]['id']} is not as asked for: ")
    assert not (tmp_path / "a" / "notes" / "guidance.json").exists()
    path.write_text("\n".join(lines), encoding="utf-8")
    resumed = omniner(*command, "output_dir=a/notes", cwd=tmp_path)
    assert "sentences predicted" not in resumed.stderr
    omniner(*command, "output_dir=b/notes", cwd=tmp_path, anew=True)
    for name in ("guidance.json", "questions.jsonl", "predictions.jsonl", "tables/lessons.csv"):
        assert (tmp_path / "a" / "notes" / name).read_bytes() == (tmp_path / "b" / "notes" / name).read_bytes()


GOOD = "妙招"
TRIED = [
    "teacher.model=big",
    "teacher.answers=2",
    "guide.trials=3",
    "guide.examples=1",
    "guide.suspects=0",
    "prompt=errta",
]


def test_a_teacher_who_calls_right_labels_wrong_is_not_believed(tmp_path: Path) -> None:
    """Labels that are unusual in train: the model confirms three of them, and the teacher doubts all."""
    train = [
        f'{{"id": "t{n}", "text": "去{w}", "entities": [{{"text": "{w}", "category": "地点", "start": 1, "end": 3}}]}}'
        for n, w in enumerate(["上海", "北京", "三亚", "杭州"] * 20)
    ]
    dev = [
        f'{{"id": "d{n}", "text": "爱{w}", "entities": [{{"text": "{w}", "category": "品牌", "start": 1, "end": 3}}]}}'
        for n, w in enumerate(["上海", "上海", "上海", "北京", "三亚", "杭州"])
    ]
    train.append(dev[0].replace("d0", "t").replace("爱", "买"))
    for name, lines in (("train", train), ("dev", dev), ("test", dev[:1])):
        (tmp_path / f"{name}.jsonl").write_text(
            "\n".join(lines).replace("爱", "玩" if name == "test" else "爱"), "utf-8"
        )
    data = ["data=own", "data.root=.", *(f"data.files.{one}=[{one}.jsonl]" for one in ("train", "dev", "test"))]

    def script(request: Seen, before: int) -> Answer:
        if request.body["model"] == "big":
            return reply(VERDICT if "verdict" in request.text else made_up_guidance.teacher_note(request.text))
        word = request.text[-2:]
        return reply(json.dumps([[word, "地点" if word == "上海" else "品牌"]], ensure_ascii=False))

    with serving(script) as server:
        asked = ["decoding=openai", f"decoding.url={server.url}", "decoding.model=small", "prompt=errta", *data]
        run = folder_of(omniner("task=predict", *asked, "tracking=off", cwd=tmp_path), tmp_path)
        asked = ["task=guide", f"run={run}", "teacher=openai", f"teacher.url={server.url}", "teacher.model=big"]
        result = omniner(*asked, "guide.suspects=1", "teacher.cache=cache", cwd=tmp_path)
        found = guidance(folder_of(result, tmp_path))
        assert [one["surface"] for one in found["suspects"]] == ["上海"]
        controls = [(one["surface"], one["verdict"]) for one in found["controls"]]
        assert controls == [("三亚", "usual"), ("北京", "usual"), ("杭州", "usual")]
        assert found["suspects"][0]["verdict"] == "unclear"
        assert "3 个正确标注中的 3 个判为错误" in found["suspects"][0]["reason"]
        assert "False alarms of the teacher: 3 of 3 unusual labels" in result.stdout
        assert "not believed" in result.stdout
        [tracked] = runs_in(tmp_path, "attributes.run_name LIKE 'guide%'")
        assert tracked.data.metrics["teacher/false_alarms"] == 1
        seen = len(server.seen)
        few = ["guide.controls=1", "teacher.max_requests=2", "teacher.cache=other", "name=few", "tracking=off"]
        short = guidance(folder_of(omniner(*asked, "guide.suspects=1", *few, cwd=tmp_path), tmp_path))
        texts = [one.text for one in server.seen[seen:] if one.body["model"] == "big"]
        # lessons first, then suspects, then controls; the two that are left are put at the same time
        assert sorted("verdict" in text for text in texts) == [False, True]
        assert [one["verdict"] for one in short["controls"]] == [""]
        assert short["suspects"][0]["verdict"] == "usual"


class Both:
    """A server with a model that makes fewer errors once it is told the good rule, and a teacher who may know it."""

    def __init__(self) -> None:
        dev = sources.load_corpus(compose.load([DATA]).data, ["dev"]).splits["dev"]
        self.gold = {sentence.text: sentence.entities for sentence in dev}
        self.trials = 0
        self.stop_at: int | None = None
        self.reached, self.go_on = threading.Event(), threading.Event()

    def __call__(self, request: Seen, before: int) -> Answer:
        if request.body["model"] == "big":
            about = request.text.partition("）：")[2].partition("\n")[0]
            rules = [f"先通读整句：{about}", "太短", f"{GOOD}：{about}"]
            return reply(json.dumps({"cause": "没有看上下文", "rules": rules, "doubtful": []}, ensure_ascii=False))
        text = request.text.rpartition("句子：")[2]
        if "训练集中" in request.text or "先通读" in request.text or GOOD in request.text:
            self.trials += 1
            if self.stop_at is not None and self.trials > self.stop_at and not self.go_on.is_set():
                self.reached.set()
                self.go_on.wait(300)
        found = self.gold.get(text, [])
        return reply(render_answer(found if len(text) % 4 == 0 or GOOD in request.text else found[1:], "official"))

    def run(self, url: str, cwd: Path) -> Path:
        """A run of the untuned model."""
        asked = ["decoding=openai", f"decoding.url={url}", "decoding.model=small", "prompt=errta", DATA, "tracking=off"]
        return folder_of(omniner("task=predict", *asked, "name=untuned", cwd=cwd), cwd)


def test_a_rule_is_taken_where_it_beats_the_counted_facts(tmp_path: Path) -> None:
    both = Both()
    with serving(both) as server:
        run = both.run(server.url, tmp_path)
        asked = ["task=guide", f"run={run}", "teacher=openai", f"teacher.url={server.url}", *TRIED]
        result = omniner(*asked, cwd=tmp_path)
        again = omniner(*asked, "tracking=off", "name=again", cwd=tmp_path)
    found, folder = guidance(folder_of(result, tmp_path)), folder_of(result, tmp_path)
    tried = [one for one in found["lessons"] if one["candidates"][0]["on_cluster"]["sentences"]]
    assert tried
    for lesson in tried:
        counted, poor, good = lesson["candidates"]
        assert [one["note"]["by"] for one in (counted, poor, good)] == ["counts", "big", "big"]
        assert counted["on_cluster"] == poor["on_cluster"]
        assert good["on_cluster"]["errors"] < counted["on_cluster"]["errors"]
        assert [one["chosen"] for one in (counted, poor, good)] == [False, False, True]
        assert lesson["note"] == good["note"]
    untried = [one for one in found["lessons"] if one not in tried]
    assert {one["note"]["by"] for one in untried} <= {"counts"}
    assert found["teacher"]["dropped"] == len(found["lessons"])
    assert (
        f"Lessons in which a rule of the teacher beat the counted facts: {len(tried)} of {len(tried)}." in result.stdout
    )
    assert "answers of trials" in result.stderr
    [tracked] = runs_in(tmp_path, "attributes.run_name LIKE 'guide%'")
    assert (tracked.data.metrics["guide/tried"], tracked.data.metrics["guide/won"]) == (len(tried), len(tried))
    assert guidance(folder_of(again, tmp_path))["lessons"] == found["lessons"]
    assert (folder / "tables" / "candidates.csv").read_text(encoding="utf-8").count(GOOD) == len(found["lessons"])
    page = (folder / "guidance.html").read_text(encoding="utf-8")
    assert page.count("句原本全对的句子上试用的说明文字") == len(tried)
    text = folder_of(omniner(*CHECK, f"prompt.from_run={folder}", "prompt.max_tokens=700", cwd=tmp_path), tmp_path)
    assert tried[0]["note"]["rule"]["zh"] in (text / "prompt.txt").read_text(encoding="utf-8")


def test_rules_of_a_person_are_tried_too(tmp_path: Path) -> None:
    both = Both()
    with serving(both) as server:
        run = both.run(server.url, tmp_path)
        asked = ["task=guide", f"run={run}", "teacher=file", *TRIED, "tracking=off"]
        first = omniner(*asked, cwd=tmp_path)
        assert "no note to try" in first.stderr
        questions = questions_of(folder_of(first, tmp_path))
        answered(tmp_path / "answers.jsonl", questions, rules=2)
        result = omniner(*asked, "teacher.file=answers.jsonl", cwd=tmp_path)
    found = guidance(folder_of(result, tmp_path))
    tried = [one for one in found["lessons"] if one["candidates"][0]["on_cluster"]["sentences"]]
    assert tried
    for lesson in tried:
        assert [one["note"]["by"] for one in lesson["candidates"]] == ["counts", "big", "big"]
        assert lesson["note"] == lesson["candidates"][2]["note"]
    assert (found["teacher"]["answered"], found["teacher"]["dropped"]) == (len(questions), 0)


def test_a_killed_trial_goes_on_and_asks_for_the_rest(tmp_path: Path) -> None:
    both = Both()
    with serving(both) as server:
        run = both.run(server.url, tmp_path)
        asked = ["task=guide", f"run={run}", "teacher=openai", f"teacher.url={server.url}", *TRIED, "tracking=off"]
        whole = folder_of(omniner(*asked, "name=whole", cwd=tmp_path), tmp_path)
        every, both.trials, both.stop_at = both.trials, 0, 9
        process = warm.start([*asked, "name=killed"], tmp_path, environment())
        assert both.reached.wait(300)
        (folder,) = (tmp_path / "outputs").glob("killed-*")
        answers = folder / "trials" / "answers.jsonl"
        _wait_for(lambda: answers.is_file() and answers.read_bytes().count(b"\n") >= 6)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -9
        kept = answers.read_bytes().count(b"\n")
        both.trials = 0
        both.go_on.set()
        result = omniner(*asked, "name=killed", cwd=tmp_path)
        assert both.trials == every - kept
    assert folder_of(result, tmp_path) == folder
    assert f"({kept} kept from before)" in result.stderr
    assert answers.read_bytes() == (whole / "trials" / "answers.jsonl").read_bytes()
    assert guidance(folder)["lessons"] == guidance(whole)["lessons"]


def test_a_trained_model_keeps_its_prompt(guided: tuple[Path, Path, Path]) -> None:
    cwd, run, _ = guided
    asked = ["task=guide", f"run={run}", "teacher=openai", "teacher.url=http://127.0.0.1:9/v1", *TRIED, "tracking=off"]
    result = omniner(*asked, cwd=cwd, status=2)
    assert "error: guide.trials: the model of " in result.stderr
    assert "keeps the prompt it was trained with" in result.stderr


def _wait_for(condition: Any) -> None:
    deadline = time.monotonic() + 300
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)
