"""Killed at any moment, from its first change on the disk to its last: the same command ends in the same bytes."""

from __future__ import annotations

import json
import os
import random
import re
import string
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

from omniner.answers import render_answer
from omniner.config import compose
from omniner.corpus import sources
from omniner.guidance import lessons
from omniner.registry import TASKS
from omniner.runs.context import never
from omniner.runs.folder import BOOKKEEPING, STATE, SWEEP_STATE
from omniner.tracking.store import open_store
from tests.e2e.conftest import ONE_EPOCH, TINY_CAUSAL, folder_of, omniner
from tests.helpers import made_up_guidance
from tests.helpers.scripted_server import Answer, Seen, reply, serving
from tests.reliability import killing
from tests.reliability.killing import PARENT, Kill

pytestmark = pytest.mark.soak

MOMENTS = int(os.environ.get("MOMENTS", "8"))  # kills of each task: the first and the last change, others by chance
LINE = '{"id": "%d", "text": "喝小满%s", "entities": [{"text": "小满", "category": "%s", "start": 1, "end": 3}]}\n'
FILES = {
    "p.jsonl": LINE % (1, "", "品牌"),
    "gold.jsonl": LINE % (1, "", "品牌"),
    "many.jsonl": "".join(LINE % (n, n, "品牌") for n in range(24)),
    "others.jsonl": "".join(LINE % (n, n, "品牌" if n % 3 else "食品") for n in range(24)),
    "again.jsonl": "".join(LINE % (n, n, "品牌" if n % 2 else "食品") for n in range(24)),
}
SIZES = "data.size={train: 60, dev: 20, test: 20}"
QUICK = ["compare.resamples=50", "compare.permutations=50", "metrics.bootstrap=0"]
SERVER = ["decoding=openai", "decoding.url=$server", "decoding.model=tiny", "decoding.retries=1"]
# How long it took, how many answers of a teacher an earlier process had kept, and what was paid for, perhaps twice.
COST = r'"(?:asked|prompt_tokens|completion_tokens)": \d+|\d+ questions? put|[\d,]+ (?:prompt|answer) tokens'
OF_THE_PROCESS = rf'"timing": {{[^}}]*}}|"cached": \d+|\d+ answers? kept|{COST}'
PREDICTED = ["predictions.jsonl", "gold.jsonl"]
SMALL = [item for item in ONE_EPOCH if not item.startswith(("data", "model"))]


class Trial(NamedTuple):
    """A command ($names are filled in), and what of its folder must be the same after a kill."""

    arguments: list[str]
    results: list[str]


TRIALS = {
    "score": Trial(["task=score", "predictions=p.jsonl", "metrics.bootstrap=20"], []),
    "adjudicate": Trial(
        ["task=adjudicate", "annotators=[p.jsonl,other=gold.jsonl]"],
        ["gold.jsonl", "queue.json", "decisions.jsonl", "counts.json"],
    ),
    "split": Trial(["task=split", "split.together=texts", SIZES], ["corpus"]),
    "convert": Trial(["task=convert", "input=p.jsonl", "to=conll", "output=new.conll"], ["../../new.conll"]),
    "compare": Trial(
        ["task=compare", "runs=[others.jsonl,again.jsonl]", "gold=many.jsonl", *QUICK],
        ["comparison.json", "comparison.md", "tables", "latex"],
    ),
    "train": Trial(ONE_EPOCH, PREDICTED),
    "train_causal": Trial(
        # guided: after four steps no free answer can be read
        [*(item for item in TINY_CAUSAL if "max_epochs" not in item), "trainer.max_epochs=1", "decoding=guided"],
        PREDICTED,
    ),
    "predict": Trial(
        ["task=predict", "model=qwen2_tiny", *TINY_CAUSAL[1:5], "decoding=guided"], ["predictions.jsonl"]
    ),
    "predict_encoder": Trial(["task=predict", "checkpoint=$encoder", SIZES, "metrics.bootstrap=0"], PREDICTED),
    "predict_server": Trial(["task=predict", *SERVER, SIZES, "metrics.bootstrap=0"], PREDICTED),
    "guide": Trial(
        ["task=guide", "run=$tagger", "teacher=openai", "teacher.url=$server", "teacher.model=teacher"],
        [*PREDICTED, "guidance.json", "guidance.md", "tables"],
    ),
    "guide_trials": Trial(
        [
            "task=guide", "run=$untuned", "teacher=openai", "teacher.url=$server", "teacher.model=teacher",
            "guide.trials=2", "guide.examples=1", "guide.suspects=0", "prompt=errta",
        ],
        ["predictions.jsonl", "trials", "guidance.json", "guidance.md", "tables"],
    ),
    "search": Trial(
        [
            "task=search", "prompt=errta", "prompt.max_tokens=700", "prompt.from_run=$guidance", "search.types=false",
            "search.random=0", "search.corrections=[1]", "search.largest=[]", "search.rungs=[0]", *SERVER, SIZES,
            *QUICK,
        ],
        ["search.json", "search.md", "prompt.txt", "best", "tables"],
    ),
    "filter": Trial(
        [
            "task=filter", "input=many.jsonl", "filter.folds=2", "filter.together=texts", "filter.min_mentions=1",
            "model.hidden=16", "model.char_dim=16", "model.bigram_dim=0", "model.layers=1", *SMALL,
        ],
        ["corpus", "filter.json", "filter.md"],
    ),
    "sweep": Trial(
        ["-m", "task=score", "predictions=others.jsonl", "gold=many.jsonl", "metrics.bootstrap=0", "seed=1,2"],
        ["summary.csv", "summary.png"],
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def values(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """What the commands name: models that are trained, guidance, a server."""
    cwd = tmp_path_factory.mktemp("around")
    tagger = folder_of(omniner(*ONE_EPOCH, "name=tagger", "tracking=off", cwd=cwd), cwd)
    encoder = ["model=bert_tiny", *SMALL, SIZES, "name=encoder", "tracking=off"]
    untuned = ["task=predict", "decoding=openai", "decoding.model=m", SIZES, "name=untuned", "tracking=off"]
    made = made_up_guidance.guidance(60)
    lessons.write_guidance(cwd / "guidance.json", made)
    splits = sources.load_corpus(compose.load([SIZES]).data, ["dev", "test"]).splits
    gold = {one.text: render_answer(one.entities, "official") for one in [*splits["dev"], *splits["test"]]}

    def script(request: Seen, before: int) -> Answer:
        if request.body["model"] == "teacher":
            known = json.dumps({"verdict": "usual", "reason": "通常如此"}, ensure_ascii=False)
            return reply(known if "verdict" in request.text else made_up_guidance.teacher_note(request.text))
        text = request.text.rpartition("句子：")[2]
        return reply(gold.get(text, "[]") if len(text) % 3 else "[]")

    with serving(script) as server:
        yield {
            "tagger": str(tagger),
            "encoder": str(folder_of(omniner(*encoder, cwd=cwd), cwd)),
            "untuned": str(folder_of(omniner(*untuned, f"decoding.url={server.url}", cwd=cwd), cwd)),
            "guidance": str(cwd / "guidance.json"),
            "server": server.url,
        }


class Store(NamedTuple):
    """The tracking store of all trials."""

    tables: Path

    def problems(self, folder: Path) -> list[str]:
        """What is wrong with the tracked runs of a folder and of the folders of children in it."""
        store = open_store(compose.load(["task=check", f"tracking.folder={self.tables}"]).tracking)
        experiments = [one.experiment_id for one in store.client.search_experiments()]
        found = []
        for state in folder.rglob(STATE):
            place = f"tags.`omniner.folder` = '{state.parent.resolve()}'"
            runs = store.client.search_runs(experiments, place)
            known = json.loads(state.read_text())
            is_tracked = TASKS[known["task"]].tracked is not never
            if [run.info.status for run in runs] != ["FINISHED"] * is_tracked:
                found.append(f"{len(runs)} tracked runs of {state.parent.name}, or one that is not FINISHED")
            if known["status"] != "finished":
                found.append(f"{state.parent.name} is {known['status']}")
            if [run.info.run_id for run in runs] != [known["run_id"]] * is_tracked:
                found.append(f"{state.parent.name} has another run")
        if (folder / SWEEP_STATE).is_file():
            known = json.loads((folder / SWEEP_STATE).read_text())
            parent = store.client.get_run(known["parent"])
            if (known["status"], parent.info.status) != ("finished", "FINISHED"):
                found.append(f"the sweep is {known['status']}, its run {parent.info.status}")
            if len(store.children(known["parent"])) != len(list(folder.rglob(STATE))):
                found.append("the sweep's run has not the children that its folder has")
        return found


def _content(folder: Path, names: Sequence[str]) -> dict[str, bytes]:
    """What a run made: these files of its folder, with all files of folders; without its own name and ids."""
    paths = [
        path
        for name in names
        for path in ([folder / name] if (folder / name).is_file() else (folder / name).rglob("*"))
    ]
    found = {os.path.relpath(path, folder): path.read_bytes() for path in paths if path.is_file()}
    scores = folder / "scores.json"
    if scores.is_file():
        found["metrics"] = json.dumps(json.loads(scores.read_bytes())["metrics"]).encode()
    own = re.compile(
        rf"{re.escape(folder.name)}|{re.escape(str(folder.parents[1]))}|\b[0-9a-f]{{32}}\b|{OF_THE_PROCESS}".encode()
    )
    return {name: data if name.endswith(".png") else own.sub(b"*", data) for name, data in found.items()}


def _moments(counts: dict[str, int], seed: str) -> list[Kill]:
    """The first and the last change of each process, and others by chance; half of the rest in children."""
    draw = random.Random(seed)
    processes = [PARENT, *sorted(counts.keys() - {PARENT})]
    chosen = [Kill(name, number) for name in processes for number in (1, counts[name])][: max(2, MOMENTS)]
    while len(chosen) < MOMENTS:
        name = PARENT if len(processes) == 1 or draw.random() < 0.5 else draw.choice(processes[1:])
        if (one := Kill(name, draw.randrange(2, counts[name]))) not in chosen:
            chosen.append(one)
    return chosen


def _one_folder(cwd: Path) -> Path:
    """The folder of the only run or sweep; a kill before its first file leaves an empty one behind."""
    [state] = [*(cwd / "outputs").glob(f"*/{STATE}"), *(cwd / "outputs/sweeps").glob(f"*/{SWEEP_STATE}")]
    return state.parent


def _place(folder: Path) -> Path:
    folder.mkdir()
    for name, text in FILES.items():
        (folder / name).write_text(text, encoding="utf-8")
    return folder


def _arguments(task: str, values: dict[str, str], tables: Path) -> list[str]:
    given = [string.Template(item).substitute(values) for item in TRIALS[task].arguments]
    return [*given, f"tracking.folder={tables}", "tracking.system_metrics=false"]


def _problems(cwd: Path, task: str, expected: dict[str, bytes], tables: Path) -> list[str]:
    """What is not as it is after a run that nobody killed."""
    folder = _one_folder(cwd)
    found = _content(folder, TRIALS[task].results)
    names = sorted(found.keys() | expected.keys())
    problems = [f"{name} differs" for name in names if found.get(name) != expected.get(name)]
    problems += Store(tables).problems(folder)
    # A kill before its first file leaves a folder that is none of a run; in the cache of a teacher's answers, which
    # other runs may be writing, nobody clears up.
    left = [
        path
        for path in cwd.rglob(".*.tmp")
        if (path.parent.parent.name != "outputs" or (path.parent / STATE).exists())
        and path.parent.parent.name != "teacher_cache"
    ]
    problems += [f"{path.relative_to(cwd)} is left over" for path in left]
    if task != "sweep":
        problems += [f"{name} is missing" for name in BOOKKEEPING if not (folder / name).exists()]
    return problems


@pytest.mark.parametrize("task", TRIALS)
def test_a_killed_run_goes_on_to_the_same_end(task: str, values: dict[str, str], tables: Path, tmp_path: Path) -> None:
    arguments = _arguments(task, values, tables)
    whole = _place(tmp_path / "whole")
    assert killing.run(arguments, whole, Kill()) == 0
    expected = _content(_one_folder(whole), TRIALS[task].results)
    assert expected
    counts = {path.name: int(path.read_text()) for path in (whole / killing.COUNTS).iterdir()}
    failures, killed = _problems(whole, task, expected, tables), {PARENT: 0, "children": 0}
    for kill in _moments(counts, task):
        cwd = _place(tmp_path / f"{kill.process}-{kill.number}")
        status = killing.run(arguments, cwd, kill)
        if not (cwd / killing.KILLED).exists():
            continue  # it had fewer changes: how many batches the thread that sends makes is a matter of time
        killed[PARENT if kill.process == PARENT else "children"] += 1
        if status:  # a search starts a killed child again by itself
            omniner(*arguments, cwd=cwd)
        problems = _problems(cwd, task, expected, tables)
        failures += [f"{task}, change {kill.number} of {kill.process}: {problem}" for problem in problems]
        print(f"  {task}: {kill.process} before change {kill.number}: {problems or 'the same'}", flush=True)
    notes = [note.read_text("utf-8") for note in (tables / "unsent").glob("*.json")]
    print(
        f"{task}: {killed[PARENT]} + {killed['children']} kills, {counts} changes, {len(failures)} failures", flush=True
    )
    assert (failures, notes) == ([], [])
