"""Which files an entry of `runs` means, and which runs can be compared."""

from __future__ import annotations

import dataclasses
import json
import shlex
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import omniner
from omniner import run
from omniner.config import compose
from omniner.config.groups import Config
from omniner.corpus import sources
from omniner.errors import UserError
from omniner.records import Entity, Prediction, Sentence, prediction_to_json, sentence_to_json, to_line
from omniner.runs.run_files import RunFiles, find_run_files
from omniner.scoring.predictions import LoadedPredictions
from omniner.tasks import compare
from omniner.tracking.store import FoundRun

TEXTS = ["我爱北京", "去上海吃火锅", "今天没有"]
GOLD = [
    Sentence("a", TEXTS[0], [Entity("北京", "地点", 2, 4)], "p"),
    Sentence("b", TEXTS[1], [Entity("上海", "地点", 1, 3), Entity("火锅", "食物", 4, 6)], "p"),
    Sentence("c", TEXTS[2], [], "q"),
]
SAID = [Prediction("a", [GOLD[0].entities[0]]), Prediction("b", [GOLD[1].entities[1]]), Prediction("c")]


def write(path: Path, items: Sequence[Any], as_json: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{to_line(as_json(item))}\n" for item in items), encoding="utf-8")
    return path


def folder(
    path: Path,
    gold: Sequence[Sentence] = GOLD,
    said: Sequence[Prediction] = SAID,
    status: str = "finished",
    **config: Any,
) -> Path:
    """The folder of a run."""
    write(path / "gold.jsonl", gold, sentence_to_json)
    write(path / "predictions.jsonl", said, prediction_to_json)
    (path / "run_state.json").write_text(json.dumps({"status": status, "run_id": f"id of {path.name}"}))
    (path / "config.yaml").write_text(json.dumps({"name": path.name, **config}), encoding="utf-8")  # JSON is YAML
    return path


def settings(*runs: str, gold: Path | None = None) -> Config:
    config = compose.load(["tracking=off"])
    return dataclasses.replace(config, runs=list(runs), gold=str(gold) if gold else None)


def aligned(config: Config, copies: Path) -> tuple[list[RunFiles], list[Any], str]:
    sources = find_run_files(config, copies)
    loaded, issues = compare.read_runs(sources)
    assert issues == []
    contenders, digest = compare.align_runs(sources, loaded)
    return sources, contenders, digest


def test_runs_that_name_sentences_alike_share_words_and_are_not_copied(tmp_path: Path) -> None:
    paths = [folder(tmp_path / name) for name in ("one", "two")]
    sources = find_run_files(settings(*map(str, paths)), tmp_path)
    loaded, _ = compare.read_runs(sources)
    systems, _ = compare.align_runs(sources, loaded)
    for system, item in zip(systems, loaded, strict=True):
        assert all(ours is theirs for ours, theirs in zip(system.predictions, item.predictions, strict=True))
    ours, theirs = (system.predictions[0].entities[0] for system in systems)
    assert ours.text is theirs.text is systems[0].gold[0].entities[0].text
    assert ours.category is theirs.category is systems[0].gold[0].entities[0].category


# Finding


def test_the_folder_of_a_sweep_stands_for_its_finished_runs(tmp_path: Path) -> None:
    sweep = tmp_path / "swept"
    folder(tmp_path / "alone")
    (sweep / "children").mkdir(parents=True)
    (sweep / "sweep.json").write_text("{}")
    for number, (digest, head, error) in enumerate(
        [("aa", "crf", ""), ("bb", "span", "killed"), ("cc", "softmax", "")]
    ):
        folder(sweep / f"{number}-{digest}", head=head)
        run = {"id": "", "name": "", "status": "finished", "metrics": {}}
        record = {"number": number, "overrides": [f"head={head}", "seed=1"], "error": error, "run": run}
        (sweep / "children" / f"{digest}.json").write_text(json.dumps(record))
    found = find_run_files(settings(str(sweep), str(tmp_path / "alone")), tmp_path)
    assert [(one.name, one.predictions.parent.name) for one in found] == [
        ("head=crf", "0-aa"),
        ("head=softmax", "2-cc"),
        ("alone", "alone"),
    ]
    compose.load(["task=compare", f"runs=[{sweep}]"])
    shutil.rmtree(sweep / "2-cc")
    with pytest.raises(UserError, match=r"the run of head=softmax is not in it\. Name the runs"):
        compose.load(["task=compare", f"runs=[{sweep}]"])
    (sweep / "children" / "cc.json").unlink()
    with pytest.raises(UserError, match="two or more, 1 given"):
        compose.load(["task=compare", f"runs=[{sweep}]"])


def swept(sweep: Path, *jobs: Sequence[str]) -> Path:
    """The folder of a sweep with finished runs of these overrides."""
    (sweep / "children").mkdir(parents=True)
    (sweep / "sweep.json").write_text("{}")
    for number, overrides in enumerate(jobs):
        folder(sweep / f"{number}-{number:02}")
        run = {"id": "", "name": "", "status": "finished", "metrics": {}}
        record = {"number": number, "overrides": list(overrides), "error": "", "run": run}
        (sweep / "children" / f"{number:02}.json").write_text(json.dumps(record))
    return sweep


def test_runs_of_several_sweeps_are_told_apart(tmp_path: Path) -> None:
    names = {}
    for head in ("crf", "softmax"):
        jobs = [[f"head={head}", f"tracking.folder={head}", f"seed={seed}"] for seed in (1, 2)]
        names[head] = str(swept(tmp_path / head, *jobs))
    found = find_run_files(settings(names["crf"], names["softmax"]), tmp_path)
    expected = ["head=crf seed=1", "head=crf seed=2", "head=softmax seed=1", "head=softmax seed=2"]
    assert [one.name for one in found] == expected
    found = find_run_files(settings(f"old={names['crf']}", names["softmax"]), tmp_path)
    assert [one.name for one in found] == ["old seed=1", "old seed=2", *expected[2:]]
    single = str(swept(tmp_path / "single", ["seed=3"]))
    assert [one.name for one in find_run_files(settings(f"new={single}"), tmp_path)] == ["new"]


def test_a_run_whose_name_has_a_sign_of_equality_is_found_by_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder(tmp_path / "outputs" / "seed=1")
    child, other = folder(tmp_path / "child"), folder(tmp_path / "other")
    known = {"head=crf seed=1": FoundRun("id of child", "head=crf seed=1", "finished", str(child))}
    monkeypatch.setattr(compare.tracking, "has_run", lambda _, text: text in known)
    monkeypatch.setattr(compare.tracking, "find_run", lambda _, text, where: known[text])
    found = find_run_files(settings("head=crf seed=1", "seed=1", f"mine={other}"), tmp_path / "copies")
    assert [(one.name, one.run_id) for one in found] == [
        ("head=crf seed=1", "id of child"),
        ("seed=1", "id of seed=1"),
        ("mine", "id of other"),
    ]


def test_a_run_of_a_moved_project_is_found_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder(tmp_path / "outputs" / "sweeps" / "a" / "0-aa", seed=3)
    known = FoundRun("id of 0-aa", "child", "running", "/before/outputs/sweeps/a/0-aa")
    monkeypatch.setattr(compare.tracking, "find_run", lambda _, text, where: known)
    (found,) = find_run_files(settings("child"), tmp_path / "copies")
    assert (found.config["seed"], found.predictions.parent) == (3, Path("outputs/sweeps/a/0-aa"))


def test_folders_and_files_are_named_and_described(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder(tmp_path / "one", seed=1)
    folder(tmp_path / "outputs" / "two", seed=2)
    write(tmp_path / "human.jsonl", SAID, prediction_to_json)
    write(tmp_path / "team" / "predictions.jsonl", SAID, prediction_to_json)
    write(tmp_path / "lr=0.1" / "predictions.jsonl", SAID, prediction_to_json)
    entries = ["one", "two", "one/predictions.jsonl", "human.jsonl", "people=human.jsonl", "team/predictions.jsonl"]
    gold = tmp_path / "one" / "gold.jsonl"
    sources = find_run_files(settings(*entries, "lr=0.1/predictions.jsonl", gold=gold), tmp_path / "copies")
    assert [s.name for s in sources] == ["one #1", "two", "one #2", "human", "people", "team", "lr=0.1"]
    assert [s.run_id for s in sources] == ["id of one", "id of two", "id of one", "", "", "", ""]
    assert [s.config.get("seed") for s in sources] == [1, 2, 1, None, None, None, None]
    assert compare.config_differences(sources) == {"seed": [1, 2, 1, *["unknown"] * 4]}
    assert sources[1].predictions == Path("outputs/two/predictions.jsonl")


def test_a_scored_run_leads_to_the_file_it_scored(tmp_path: Path) -> None:
    write(tmp_path / "gold.jsonl", GOLD, sentence_to_json)
    said = write(tmp_path / "said.jsonl", SAID, prediction_to_json)
    scored = folder(tmp_path / "scored")
    own = dataclasses.asdict(settings().data) | {"offsets": "inclusive"}
    config = {"name": "scored", "predictions": str(said), "gold": str(tmp_path / "gold.jsonl"), "data": own}
    (scored / "config.yaml").write_text(json.dumps(config), encoding="utf-8")
    (scored / "predictions.jsonl").unlink()
    (source,) = find_run_files(settings(str(scored)), tmp_path)
    assert (source.predictions, source.gold) == (said, tmp_path / "gold.jsonl")
    assert source.data is not None
    assert source.data.offsets == "inclusive"
    said.unlink()
    with pytest.raises(UserError, match=r"holds no predictions\.jsonl, and .*said\.jsonl is gone"):
        find_run_files(settings(str(scored)), tmp_path)


@pytest.mark.parametrize("status", ["running", "killed", "failed"])
def test_an_unfinished_run_is_refused(tmp_path: Path, status: str) -> None:
    with pytest.raises(UserError, match=f"runs: the run in .* is {status}, not finished"):
        find_run_files(settings(str(folder(tmp_path / "run", status=status))), tmp_path)


def test_what_is_nowhere_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="'nowhere' is no file and no folder, and with tracking=off no runs are known"):
        find_run_files(settings("nowhere"), tmp_path)
    with pytest.raises(UserError, match=r"holds no predictions\.jsonl\. Name a run"):
        find_run_files(settings(str(tmp_path)), tmp_path)
    runs = settings(f"x #1={folder(tmp_path / 'one')}", str(folder(tmp_path / "x")), f"x={tmp_path / 'one'}")
    with pytest.raises(UserError, match="names are not unique: x #1, x #1, x #2"):
        find_run_files(runs, tmp_path)


@pytest.mark.parametrize("text", ["a: [", "a: " + "[" * 5000, "- 1", "a: 1\n" * 60_000])
def test_a_broken_configuration_is_named(text: str, tmp_path: Path) -> None:
    run = folder(tmp_path / "run")
    (run / "config.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=r"config\.yaml: (not (a|the) configuration|300,000 bytes)"):
        find_run_files(settings(str(run)), tmp_path)


# Aligning


def test_ids_order_and_posts_do_not_make_another_test_set(tmp_path: Path) -> None:
    """One run has the sentences in another order, one other ids and no posts."""
    other = [dataclasses.replace(s, id=f"line-{n}", post_id=None, meta={"n": n}) for n, s in enumerate(GOLD)]
    said = [dataclasses.replace(p, id=f"line-{n}") for n, p in enumerate(SAID)]
    ids = folder(tmp_path / "ids", other, said)
    order, plain = folder(tmp_path / "order", GOLD[::-1]), folder(tmp_path / "plain")
    expected = {s.text: (s.entities, p.entities) for s, p in zip(GOLD, SAID, strict=True)}
    for runs in ([plain, ids, order], [ids, plain], [order, plain]):
        _, contenders, _ = aligned(settings(*map(str, runs)), tmp_path)
        texts = [s.text for s in contenders[0].gold]
        for contender in contenders:
            answers = {p.id: p.entities for p in contender.predictions}
            assert {s.text: (s.entities, answers[s.id]) for s in contender.gold} == expected
            assert [s.text for s in contender.gold] == texts
            assert [s.id for s in contender.gold] == [s.id for s in contenders[0].gold]
            posts = dict(zip(TEXTS, "ppq", strict=True))
            assert [s.post_id for s in contender.gold] == [posts[text] for text in texts]


@pytest.mark.parametrize("names", ["xyz", "cba", "abc"])
def test_other_ids_in_another_order_do_not_make_another_test_set(tmp_path: Path, names: str) -> None:
    """Names of another reader, or numbers of lines, which agree and mean others."""
    twice = [*GOLD[:2], dataclasses.replace(GOLD[1], id="c", entities=[])]  # one text with two annotations
    for gold in (GOLD, twice):
        other = [dataclasses.replace(s, id=id) for s, id in zip(gold[::-1], names, strict=True)]
        said = [dataclasses.replace(p, id=id) for p, id in zip(SAID[::-1], names, strict=True)]
        runs = [str(folder(tmp_path / "plain", gold)), str(folder(tmp_path / "other", other, said))]
        _, contenders, _ = aligned(settings(*runs), tmp_path)
        for contender in contenders:
            assert [(s.id, s.text, s.entities) for s in contender.gold] == [(s.id, s.text, s.entities) for s in gold]
            assert {p.id: p.entities for p in contender.predictions} == {p.id: p.entities for p in SAID}


def test_sentences_without_a_text_are_not_paired_by_their_entities() -> None:
    first = [Sentence(str(n), "", list(s.entities)) for n, s in enumerate(GOLD)]
    turned = [dataclasses.replace(s, id=f"line-{n}") for n, s in enumerate(first[::-1])]
    sources = [RunFiles(name, name, Path(), None, None, {}, "") for name in ("a", "b")]
    loaded = [LoadedPredictions(gold, [], [], 0.0) for gold in (first, turned)]
    with pytest.raises(UserError, match="b was tested on other sentences than a"):
        compare.align_runs(sources, loaded)


def test_the_order_of_entities_does_not_make_another_test_set(tmp_path: Path) -> None:
    turned = [dataclasses.replace(s, entities=s.entities[::-1]) for s in GOLD]
    runs = [str(folder(tmp_path / "base")), str(folder(tmp_path / "other", turned))]
    _, contenders, digest = aligned(settings(*runs), tmp_path)
    assert [[s.entities for s in contender.gold] for contender in contenders] == [[s.entities for s in GOLD]] * 2
    assert aligned(settings(*runs[::-1]), tmp_path)[2] == digest


def test_one_gold_is_read_once_for_all_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each run has a copy of it; another gold of the same sentences is read, too."""
    paths: list[Path] = []
    read = sources.read_sentences

    def counting(path: Path, *options: Any) -> Any:
        paths.append(path)
        return read(path, *options)

    monkeypatch.setattr("omniner.scoring.gold.read_sentences", counting)
    runs = [folder(tmp_path / name) for name in "abc"]
    _, contenders, _ = aligned(settings(*map(str, [*runs, folder(tmp_path / "d", GOLD[::-1])])), tmp_path)
    assert paths == [runs[0] / "gold.jsonl", tmp_path / "d" / "gold.jsonl"]
    assert all(list(one.gold) == GOLD for one in contenders)


def test_an_answer_to_nothing_stays_one(tmp_path: Path) -> None:
    other = [dataclasses.replace(s, id=f"line-{n}") for n, s in enumerate(GOLD)]
    said = [dataclasses.replace(p, id=f"line-{n}") for n, p in enumerate(SAID)]
    said[1].id = "b"  # the id of a sentence of the other run
    runs = [str(folder(tmp_path / "base")), str(folder(tmp_path / "other", other, said))]
    _, contenders, _ = aligned(settings(*runs), tmp_path)
    assert [p.id for p in contenders[1].predictions] == ["a", "unknown: b", "c"]


def test_generated_predictions_are_compared_on_the_gold_that_is_named(tmp_path: Path) -> None:
    """Answers of a language model as LLaMA-Factory writes them, beside a run with offsets."""
    base = folder(tmp_path / "base")
    lines = [
        {"prompt": f"p{n}", "label": "[]", "predict": json.dumps([e[:2] for e in p.entities], ensure_ascii=False)}
        for n, p in enumerate(SAID)
    ]
    file = write(tmp_path / "lf" / "generated_predictions.jsonl", lines, dict)
    with pytest.raises(UserError, match=r"lf was tested on other sentences than base .* 3 of 3 differ"):
        aligned(settings(str(base), str(file)), tmp_path)
    _, contenders, _ = aligned(settings(str(base), str(file), gold=base / "gold.jsonl"), tmp_path)
    assert [p.entities for p in contenders[1].predictions] == [[Entity(*e[:2]) for e in p.entities] for p in SAID]
    assert [s.post_id for s in contenders[1].gold] == ["p", "p", "q"]


def inclusive(path: Path) -> Path:
    """Gold as a program writes it that counts the last character and names no surface."""
    lines = [
        {"id": s.id, "text": s.text, "entities": [[e.start, (e.end or 0) - 1, e.category] for e in s.entities]}
        for s in GOLD
    ]
    return write(path, lines, dict)


def test_gold_is_read_as_the_command_or_the_scored_run_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    gold = inclusive(tmp_path / "inclusive.jsonl")
    said = write(tmp_path / "said.jsonl", SAID, prediction_to_json)
    words = [f"predictions={said}", f"gold={gold}", "data.offsets=inclusive", "metrics.bootstrap=0"]
    scored = run.run(compose.load(["task=score", "tracking=off", *words, "output_dir=scored"]))
    own = folder(tmp_path / "own")  # its gold.jsonl is ours, whatever the command says of the other files
    said_of_files = compose.load(["tracking=off", "data.offsets=inclusive"])
    config = dataclasses.replace(said_of_files, runs=[str(own), str(said), str(scored)], gold=str(gold))
    _, contenders, _ = aligned(config, tmp_path)
    assert [[s.entities for s in contender.gold] for contender in contenders] == [[s.entities for s in GOLD]] * 3
    _, (first, second), _ = aligned(settings(str(own), str(scored)), tmp_path)
    assert [s.entities for s in first.gold] == [s.entities for s in second.gold] == [s.entities for s in GOLD]


def test_gold_that_was_scored_with_a_choice_of_ones_own_is_read_without_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The format that the choice gives its own files is not that of another gold file, there or here."""
    monkeypatch.chdir(tmp_path)
    choice = tmp_path / "mine" / "data" / "shop.yaml"
    choice.parent.mkdir(parents=True)
    choice.write_text("defaults: [own]\nname: shop\nformat: conll\n")
    write(tmp_path / "gold.jsonl", GOLD, sentence_to_json)
    write(tmp_path / "said.jsonl", SAID, prediction_to_json)
    words = ["task=score", "data=shop", "predictions=said.jsonl", "gold=gold.jsonl", "output_dir=scored"]
    quick = ["tracking=off", "metrics.bootstrap=0"]
    monkeypatch.setattr("sys.argv", ["omniner.run", "--config-dir", "mine", *words, *quick])
    with pytest.raises(SystemExit) as ended:
        run.main()
    assert ended.value.code == 0
    _, (first, second), _ = aligned(settings("scored", "scored"), tmp_path)
    assert [s.entities for s in first.gold] == [s.entities for s in second.gold] == [s.entities for s in GOLD]


def test_runs_in_different_units_are_refused_by_name(tmp_path: Path) -> None:
    bare = [dataclasses.replace(one, entities=[Entity(*entity[:2]) for entity in one.entities]) for one in GOLD]
    runs = [str(folder(tmp_path / "base")), str(folder(tmp_path / "other", bare))]
    with pytest.raises(UserError, match="base is measured by span and other by pair: only one gold has offsets"):
        aligned(settings(*runs), tmp_path)
    files = [f"a={tmp_path / 'base' / 'predictions.jsonl'}", f"b={tmp_path / 'other' / 'predictions.jsonl'}"]
    aligned(settings(*files, gold=tmp_path / "base" / "gold.jsonl"), tmp_path)  # what the message says to do


def test_gold_that_was_located_in_another_way_is_told_from_other_sentences(tmp_path: Path) -> None:
    """Two versions of OmniNER may find the entities of one file at different places."""
    golds = [[Sentence("a", "大理在大理", [Entity("大理", "地点", start, start + 2)]), *GOLD[1:]] for start in (0, 3)]
    runs = [str(folder(tmp_path / name, gold)) for name, gold in zip(("base", "other"), golds, strict=True)]
    with pytest.raises(UserError, match=r"the gold of other has the entities of base at other places.*gold=<file>"):
        aligned(settings(*runs), tmp_path)
    files = [f"a={tmp_path / 'base' / 'predictions.jsonl'}", f"b={tmp_path / 'other' / 'predictions.jsonl'}"]
    aligned(settings(*files, gold=tmp_path / "base" / "gold.jsonl"), tmp_path)  # what the message says to do


@pytest.mark.parametrize(
    ("gold", "found"),
    [
        (GOLD[:2], r"; 2 and 3 sentences\)"),
        ([GOLD[0], dataclasses.replace(GOLD[1], entities=[]), GOLD[2]], r"1 of 3 differ, the first is 'b'\)"),
        ([GOLD[0], GOLD[1], dataclasses.replace(GOLD[2], text="今天没有。")], r"1 of 3 differ, the first is 'c'\)"),
    ],
)
def test_other_test_sets_are_refused_with_what_else_differs(tmp_path: Path, gold: list[Sentence], found: str) -> None:
    base = folder(tmp_path / "base", seed=1, data={"name": "weibo", "seed": 0})
    other = folder(tmp_path / "other", gold, data={"name": "resume", "seed": 0}, seed=2)
    with pytest.raises(UserError, match=found) as caught:
        aligned(settings(str(base), str(other)), tmp_path)
    message = str(caught.value)
    assert "their configurations differ in data.name weibo and resume." in message
    assert message.startswith("runs: other was tested on other sentences than base (digests ")
    assert "\n" not in message


# Counting


def test_the_command_that_a_scored_run_prints_counts_as_the_run_did(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], caplog: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    twice = Sentence("d", "北京爱北京", [Entity("北京", "地点", 0, 2), Entity("北京", "地点", 3, 5)])  # one pair
    write(tmp_path / "gold.jsonl", [*GOLD, twice], sentence_to_json)
    write(tmp_path / "said.jsonl", [*SAID, Prediction("d", twice.entities)], prediction_to_json)
    quick = ["tracking=off", "metrics.bootstrap=0", "compare.resamples=20", "compare.permutations=20"]

    def do(*overrides: str) -> dict[str, Any]:
        caplog.clear()
        done = run.run(compose.load([*overrides, "gold=gold.jsonl", *quick]))
        found = [file for name in ("scores.json", "comparison.json") if (file := done / name).is_file()]
        return dict(json.loads(found[0].read_text(encoding="utf-8")))

    own = do("task=score", "name=one", "predictions=said.jsonl", "metrics.profile=official", "output_dir=one")
    printed = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("  next "))
    arguments = shlex.split(printed.replace("<another run>", "two=said.jsonl"))[4:]
    arguments = [one for one in arguments if not one.startswith("metrics.bootstrap")]
    assert arguments[-1] == "metrics.profile=official"
    there = do(*arguments, "output_dir=same")["runs"]["one"]
    for key in ("metrics", "errta"):
        assert there[key] == own[key]
    assert "own report" not in caplog.text
    here = do(*arguments[:-1], "output_dir=other")["runs"]["one"]
    assert here["metrics"]["micro"] != own["metrics"]["micro"]
    warning = (
        "one: figures here are not those of the run's own report, which counts by profile official, unit pair, "
        "unreadable official, errta official; this comparison counts by profile own, unit span, unreadable empty, "
        "errta span. Add metrics.profile=official to count as there."
    )
    assert warning in caplog.text
    assert warning in (tmp_path / "other" / "comparison.md").read_text(encoding="utf-8").replace("\\", "")
    caplog.clear()
    omniner.compare(["one", "said.jsonl"], "gold.jsonl", quick)
    assert warning in caplog.text
    page = (tmp_path / "other" / "comparison.html").read_text(encoding="utf-8")
    assert "one：此处的数字与该运行自己的报告不同" in page
