"""`task=adjudicate` and `task=agreement` from files to files: nothing is lost, and mistakes are one clear line."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from omniner import run
from omniner.config import compose
from omniner.corpus import sources
from omniner.corpus.formats import jsonl
from omniner.errors import UserError
from omniner.files import read_json, write_json
from omniner.records import Entity, Sentence, sentence_to_json

TEXT = "她在上海吃烤鸭"
SHANGHAI, DUCK = Entity("上海", "地址_城市", 2, 4), Entity("烤鸭", "食品_菜品", 5, 7)
EAT = Entity("吃烤鸭", "食品_菜品", 4, 7)


def corpus(*labels: list[Entity] | None) -> list[Sentence]:
    """Sentences s0, s1, ... with these labels; None leaves one out."""
    return [Sentence(f"s{n}", TEXT, one, f"p{n // 2}") for n, one in enumerate(labels) if one is not None]


#       unanimous   majority           vote              separate               queued           one person only
A = corpus([DUCK], [SHANGHAI, DUCK], [SHANGHAI, DUCK], [DUCK], [SHANGHAI, DUCK], [DUCK])
B = corpus([DUCK], [SHANGHAI, DUCK], [SHANGHAI], [EAT._replace(category="其他_x")], [SHANGHAI, EAT], None)
C = corpus([DUCK], [DUCK], [DUCK], [DUCK._replace(category="其他_x")], [SHANGHAI], None)
B[3] = Sentence("s3", TEXT, [EAT], "p1")  # the category of A, the span of nobody else


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name, sentences in (("a", A), ("b", B), ("c", C)):
        jsonl.write(tmp_path / f"{name}.jsonl", sentences)
    return tmp_path


def do(*overrides: str) -> Path:
    return run.run(compose.load(["tracking=off", "annotators=[a.jsonl,b.jsonl,c.jsonl]", *overrides]))


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_vote_queue_expert_and_gold(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = do("task=adjudicate", "output_dir=first")
    how = {one["id"]: one["how"] for one in lines(first / "decisions.jsonl")}
    assert how == {"s0": "unanimous", "s1": "majority", "s2": "vote", "s3": "separate", "s4": "queued", "s5": "queued"}
    gold = {one.id: one for one in sources.read_sentences(first / "gold.jsonl")[0]}
    assert [gold[f"s{n}"].entities for n in range(4)] == [[DUCK], [SHANGHAI, DUCK], [SHANGHAI, DUCK], [DUCK]]
    assert (gold["s2"].post_id, gold["s2"].text) == ("p1", TEXT)
    tasks = read_json(first / "queue.json")
    assert {one["data"]["sentence_id"] for one in tasks} | gold.keys() == {f"s{n}" for n in range(6)}
    proposals = {one["model_version"]: one["result"] for one in tasks[0]["predictions"]}
    assert list(proposals) == ["a", "b", "c"]
    assert [region["value"]["text"] for region in proposals["b"]] == ["上海", "吃烤鸭"]
    labels = (first / "queue.xml").read_text(encoding="utf-8")
    assert all(f'<Label value="{name}"/>' in labels for name in ("地址_城市", "食品_菜品", "其他_x"))
    absent = [one["absent"] for one in lines(first / "decisions.jsonl") if "absent" in one]
    assert absent == [["b", "c"]]

    printed = capsys.readouterr().out
    assert "the same command with expert=<export> and another output_dir" in printed
    (train_next,) = re.findall(r"next: (.*)", printed)
    compose.load(shlex.split(train_next))
    assert "input=first/gold.jsonl" in train_next

    # The untouched queue is no answer, although it holds predictions; nor is a cancelled annotation.
    tasks[1]["annotations"] = [{"was_cancelled": True, "result": tasks[1]["predictions"][0]["result"]}]
    write_json(files / "export.json", tasks)
    again = do("task=adjudicate", "output_dir=again", "expert=export.json")
    assert lines(again / "decisions.jsonl") == lines(first / "decisions.jsonl")

    tasks[0]["annotations"] = [{"result": proposals["b"]}]
    tasks[1]["annotations"] = [{"result": []}]
    write_json(files / "export.json", tasks)
    done = do("task=adjudicate", "output_dir=done", "expert=export.json")
    gold = {one.id: one for one in sources.read_sentences(done / "gold.jsonl")[0]}
    assert list(gold) == [f"s{n}" for n in range(6)]
    assert (gold["s4"].entities, gold["s5"].entities) == ([SHANGHAI, EAT], [])
    assert read_json(done / "queue.json") == []
    assert read_json(done / "counts.json")["how"]["expert"] == 2


def test_the_expert_reviews_all_that_is_disputed_with_the_vote_as_a_proposal(files: Path) -> None:
    """The second stage of the paper's section 3.1."""
    usual = {one["id"]: one for one in lines(do("task=adjudicate", "output_dir=usual") / "decisions.jsonl")}
    first = do("task=adjudicate", "output_dir=first", "adjudicate.review=disputed")
    decisions = {one["id"]: one for one in lines(first / "decisions.jsonl")}
    assert {id: one["how"] for id, one in decisions.items()} == {"s0": "unanimous"} | dict.fromkeys(
        ("s1", "s2", "s3", "s4", "s5"), "queued"
    )
    assert [one.id for one in sources.read_sentences(first / "gold.jsonl")[0]] == ["s0"]
    proposals = {id: one["proposal"] for id, one in decisions.items() if "proposal" in one}
    assert proposals == {id: usual[id]["entities"] for id in ("s1", "s2", "s3")}  # s4 and s5 are open: none
    tasks = {one["data"]["sentence_id"]: one for one in read_json(first / "queue.json")}
    assert list(tasks) == ["s1", "s2", "s3", "s4", "s5"]
    shown = {id: [one["model_version"] for one in task["predictions"]] for id, task in tasks.items()}
    assert shown["s3"] == ["vote of all", "a", "b", "c"], "what comes first is what Label Studio opens a task with"
    assert shown["s4"] == ["a", "b", "c"]
    regions = tasks["s2"]["predictions"][0]["result"]
    assert [region["value"]["text"] for region in regions] == ["上海", "烤鸭"]

    tasks["s2"]["annotations"] = [{"result": regions}]
    tasks["s3"]["annotations"] = [{"result": []}]
    write_json(files / "export.json", list(tasks.values()))
    done = do("task=adjudicate", "output_dir=done", "adjudicate.review=disputed", "expert=export.json")
    gold = {one.id: one.entities for one in sources.read_sentences(done / "gold.jsonl")[0]}
    assert gold == {"s0": [DUCK], "s2": [SHANGHAI, DUCK], "s3": []}
    assert read_json(done / "counts.json")["how"]["queued"] == 3
    after = {one["id"]: one for one in lines(done / "decisions.jsonl")}
    assert (after["s3"]["how"], after["s3"]["proposal"]) == ("expert", proposals["s3"])
    codes = [one["code"] for one in lines(done / "issues.jsonl")]
    assert "expert-overrules" not in codes, "the expert was asked"


def test_an_expert_may_answer_in_any_format_and_overrule(files: Path) -> None:
    answers = [Sentence("s4", TEXT, [DUCK]), Sentence("s0", TEXT, []), Sentence("s9", TEXT), Sentence("s5", "别的")]
    jsonl.write(files / "expert.jsonl", answers)
    done = do("task=adjudicate", "output_dir=done", "expert=expert.jsonl")
    gold = {one.id: one.entities for one in sources.read_sentences(done / "gold.jsonl")[0]}
    assert (gold["s4"], gold["s0"], "s5" in gold) == ([DUCK], [], False)
    codes = sorted(one["code"] for one in lines(done / "issues.jsonl"))
    assert codes == ["expert-overrules", "not-annotated", "not-annotated", "text-mismatch", "unknown-id"]


def test_who_does_not_qualify_is_named_and_left_out(files: Path) -> None:
    jsonl.write(files / "practice.jsonl", [A[0], A[1], A[2]])
    done = do("task=adjudicate", "output_dir=done", "practice=practice.jsonl", "adjudicate.qualify=0.85")
    counts = read_json(done / "counts.json")
    assert counts["annotators"] == ["a", "b"]  # a 1.0, b 8/9, c 3/4
    assert [round(one["f1"], 4) for one in counts["qualification"]] == [1.0, 0.8889, 0.75]
    assert counts["how"]["practice"] == 3
    unqualified = [one for one in lines(done / "issues.jsonl") if one["code"] == "unqualified"]
    assert [one["message"][:2] for one in unqualified] == ["c:"]
    gold = {one.id: one.entities for one in sources.read_sentences(done / "gold.jsonl")[0]}
    assert [gold[f"s{n}"] for n in range(3)] == [A[0].entities, A[1].entities, A[2].entities]
    with pytest.raises(UserError, match=r"c: f1 0\.7500"):
        do("task=adjudicate", "practice=practice.jsonl", "adjudicate.qualify=0.85", "adjudicate.unqualified=fail")
    with pytest.raises(UserError, match="1 annotators qualify"):
        do("task=adjudicate", "practice=practice.jsonl")


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["annotators=[a.jsonl]"], "needs two or more, 1 given"),
        (["annotators=[a.jsonl,b.jsonl,nothing.jsonl]"], r"nothing\.jsonl does not exist"),
        (["annotators=[a.jsonl,a.jsonl]"], "two are called 'a'"),
        (["annotators=['gold=a.jsonl',b.jsonl]"], "'gold' is no name"),
        (["annotators=['../x=a.jsonl',b.jsonl]"], "'../x' is no name"),
        (["annotators=[a.jsonl,bare.jsonl]"], "no labelled sentence"),
        (["expert=nothing.json"], r"nothing\.json does not exist"),
        (["practice=other.jsonl"], "shares no sentence"),
    ],
)
def test_mistakes_are_one_line(files: Path, overrides: list[str], said: str) -> None:
    (files / "bare.jsonl").write_text('{"id": "s0", "text": "她"}\n', encoding="utf-8")
    jsonl.write(files / "other.jsonl", [Sentence("elsewhere", TEXT, [DUCK])])
    with pytest.raises(UserError, match=said):
        do("task=adjudicate", *overrides)


def test_one_export_of_several_annotators_gives_all_of_them(files: Path) -> None:
    def annotation(person: int, *entities: Entity) -> dict[str, object]:
        value = [{"start": one.start, "end": one.end, "text": one.text, "labels": [one.category]} for one in entities]
        return {"completed_by": person, "result": [{"type": "labels", "value": one} for one in value]}

    task = {"id": 1, "data": {"text": TEXT}, "annotations": [annotation(3, DUCK), annotation(5, DUCK)]}
    write_json(files / "export.json", [task])
    done = do("task=adjudicate", "annotators=[export.json]")
    assert read_json(done / "counts.json")["annotators"] == ["3", "5"]
    assert read_json(done / "counts.json")["how"]["unanimous"] == 1
    with pytest.raises(UserError, match="needs two or more, 1 given"):
        do("task=adjudicate", "annotators=[export.json]", "data.annotator='3'")


def test_agreement_and_people_beside_models(files: Path) -> None:
    jsonl.write(files / "gold.jsonl", A)
    done = do("task=agreement", "gold=gold.jsonl", "agreement.bootstrap=50", "output_dir=agreed")
    content = read_json(done / "agreement.json")
    assert (content["sentences"], content["complete"]) == (6, 5)
    # a and b on the five sentences that both have: 8 and 7 entities, 5 the same
    assert content["figures"]["f1.strict.a.b"]["value"] == pytest.approx(2 * 5 / (8 + 7))
    assert content["human"]["all (micro)"]["f1"]["highest"] == 1.0
    page = (done / "agreement.md").read_text(encoding="utf-8")
    assert "Human performance" in page
    assert "烤鸭" in page
    assert "人工水平" in (done / "agreement.html").read_text(encoding="utf-8")  # the sentences are Chinese
    tables = {path.name for path in (done / "tables").iterdir()}
    assert tables >= {"agreement_figures.csv", "agreement_suggestions.csv", "agreement_human.csv"}
    # of the six c labelled five, with 8 entities of gold, and found 4 of these
    assert content["human"]["all (micro)"]["recall"]["lowest"] == pytest.approx(4 / 8)
    assert "c labelled 5 of 6 sentences and is scored on those alone" in page
    assert [sentence_to_json(one) for one in sources.read_sentences(done / "human/gold.jsonl")[0]] == [
        sentence_to_json(one) for one in A
    ]
    runs = f"runs=['human_a={done}/human/a.jsonl','human_b={done}/human/b.jsonl']"
    small = ["compare.resamples=20", "compare.permutations=20", "metrics.bootstrap=0"]
    compared = run.run(compose.load(["tracking=off", "task=compare", runs, "output_dir=compared", *small]))
    assert "human_b" in (compared / "comparison.md").read_text(encoding="utf-8")


def test_who_labelled_a_part_of_gold_is_measured_as_the_others(files: Path) -> None:
    """The one entity without a place makes all of gold be counted by pair, also for those who never met it."""
    gold = [
        Sentence(f"s{n}", "喝小满和小满", [Entity("小满", "品牌", 1, 3), Entity("小满", "品牌", 4, 6)])
        for n in range(3)
    ]
    gold[2].entities.append(Entity("没有的", "品牌"))
    jsonl.write(files / "gold.jsonl", gold)
    jsonl.write(files / "a.jsonl", gold)
    jsonl.write(files / "b.jsonl", [replace(one, entities=one.entities[:1]) for one in gold[:2]])
    people = ["annotators=[a.jsonl,b.jsonl]", "gold=gold.jsonl", "metrics.bootstrap=0"]
    agreed = do("task=agreement", *people, "agreement.bootstrap=0", "output_dir=agreed")
    few = ["compare.resamples=20", "compare.permutations=20", "output_dir=compared"]
    compared = do("task=compare", "runs=['model=a.jsonl']", *people, *few)
    human = read_json(agreed / "agreement.json")["human"]
    assert human == read_json(compared / "comparison.json")["human"]
    assert human["all (micro)"]["f1"]["lowest"] == 1.0, "by pair b found all of the sentences that b labelled"


def test_annotators_beside_a_run(files: Path) -> None:
    jsonl.write(files / "gold.jsonl", A)
    jsonl.write(files / "answers.jsonl", [replace(one, entities=one.entities[:1]) for one in A])
    # d has ids of its own, as a reader gives them to sentences that bring none; b has these ids, but other texts
    texts = [f"{TEXT}{n}" for n in range(6)]
    other = [replace(one, text=text) for one, text in zip(A, texts, strict=True)]
    jsonl.write(files / "other_gold.jsonl", other)
    jsonl.write(files / "d.jsonl", [replace(one, id=f"d-{n}") for n, one in enumerate(other)])
    small = ["task=compare", "compare.resamples=20", "compare.permutations=20", "metrics.bootstrap=0"]
    done = do(*small, "runs=[answers.jsonl]", "gold=gold.jsonl", "output_dir=people")
    content = read_json(done / "comparison.json")
    f1 = [content["people"][name]["metrics"]["micro"]["f1"] for name in "abc"]
    assert f1[0] == 1.0
    agreed = read_json(do("task=agreement", "gold=gold.jsonl", "agreement.bootstrap=0") / "agreement.json")
    assert agreed["human"] == content["human"]
    assert content["human"]["all (micro)"]["f1"]["mean"] == pytest.approx(sum(f1) / 3)
    table = (done / "tables" / "compare_models.csv").read_text(encoding="utf-8").splitlines()
    assert [line.split(",")[0] for line in table] == ["run", "answers", "human"]
    assert "c labelled 5 of 6 sentences" in (done / "comparison.md").read_text(encoding="utf-8")
    jsonl.write(files / "said.jsonl", other)
    told = do(*small, "runs=[said.jsonl]", "gold=other_gold.jsonl", "annotators=[d.jsonl]", "output_dir=told")
    assert read_json(told / "comparison.json")["people"]["d"]["metrics"]["micro"]["f1"] == 1.0
    for overrides, said in (
        (["runs=[answers.jsonl]", "annotators=[]"], "needs two or more, 1 given"),
        (["runs=['human=answers.jsonl']"], "a run is called human"),
        (["runs=[answers.jsonl]", "annotators=[nothing.jsonl]"], r"nothing\.jsonl does not exist"),
        (["runs=[said.jsonl]", "gold=other_gold.jsonl", "annotators=[b.jsonl]"], "has labels of none of the 6"),
    ):
        with pytest.raises(UserError, match=said):
            do(*small, "gold=gold.jsonl", *overrides)
