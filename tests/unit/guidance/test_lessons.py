"""Guidance: the same after a file, refused where it is broken, shown with everything escaped."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import ROOT
from tests.helpers import made_up_guidance
from tests.helpers.made_up_guidance import lesson_of

from omniner.errors import UserError
from omniner.guidance import lessons
from omniner.guidance.lessons import Candidate, Failure, Guidance, Lesson, Note, Tried
from omniner.records import Entity
from omniner.report import guidance_page
from omniner.scoring.metrics import ErrtaError

HOSTILE = "<script>alert(1)</script> `|*_# \ud83d\n</style>"


@pytest.fixture(scope="module")
def made() -> Guidance:
    return made_up_guidance.guidance()


def test_a_file_gives_back_what_was_written(made: Guidance, tmp_path: Path) -> None:
    assert len(made.lessons) > 20
    failed = dataclasses.replace(made, failures=[Failure("confusion: a → b", "refused: no")])
    for given in (made, failed):
        back = lessons.read_guidance(lessons.write_guidance(tmp_path / "guidance.json", given))
        assert back == given
        assert back.sha == given.sha


def test_half_a_surrogate_survives(tmp_path: Path) -> None:
    text = "喝\ud83d小满"
    error = ErrtaError("missing", "a", (Entity("\ud83d小满", "品牌", 1, 4),), ())
    given = dataclasses.replace(made_up_guidance.guidance(20), lessons=[lesson_of(error, text)])
    path = lessons.write_guidance(tmp_path / "guidance.json", given)
    path.read_text(encoding="utf-8")
    assert lessons.read_guidance(path) == given


def test_entities_may_have_no_place(tmp_path: Path) -> None:
    error = ErrtaError("classification", "a", (Entity("小满", "品牌", 1, 3),), (Entity("小满", "时间"),))
    given = dataclasses.replace(made_up_guidance.guidance(20), lessons=[lesson_of(error, "喝小满")])
    assert lessons.read_guidance(lessons.write_guidance(tmp_path / "guidance.json", given)) == given


def chosen(lesson: Lesson, tried: bool) -> Lesson:
    """The lesson with the counted note, and two rules of a teacher of which the second helps."""
    rules = [Note("big", {"zh": f"规则{n}：{lesson.gold or lesson.predicted}"}, {"zh": "因为"}) for n in (1, 2)]
    notes = [Candidate(note, chosen=note is rules[1]) for note in (lesson.note, *rules)]
    if tried:
        notes = [
            dataclasses.replace(
                one, on_cluster=Tried(4, 3 - n), on_right=Tried(4, n % 2), choosing=Tried(4, 2), confirming=Tried(4, n)
            )
            for n, one in enumerate(notes)
        ]
    return dataclasses.replace(lesson, note=rules[1], candidates=notes)


def test_files_of_older_versions_open(made: Guidance, tmp_path: Path) -> None:
    """They know no candidates; their hash, and so that of prompts made of them, stays."""
    written = made.to_json()
    for lesson in written["lessons"]:
        assert lesson.pop("candidates") == []
    assert written.pop("controls") == []
    (tmp_path / "old.json").write_text(json.dumps(written), encoding="utf-8")
    back = lessons.read_guidance(tmp_path / "old.json")
    assert back == made
    told = {**written, "source": None, "teacher": None}
    old = hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:16]
    assert old == made.sha == back.sha


def test_candidates_are_kept_with_their_trials(made: Guidance, tmp_path: Path) -> None:
    given = dataclasses.replace(made, lessons=[chosen(made.lessons[0], tried=True), *made.lessons[1:]])
    path = lessons.write_guidance(tmp_path / "guidance.json", given)
    assert json.loads(path.read_text(encoding="utf-8"))["lessons"][0]["candidates"][2] == {
        "note": {"by": "big", "rule": given.lessons[0].note.rule, "cause": {"zh": "因为"}},
        "chosen": True,
        "on_cluster": {"sentences": 4, "errors": 1},
        "on_right": {"sentences": 4, "errors": 0},
        "choosing": {"sentences": 4, "errors": 2},
        "confirming": {"sentences": 4, "errors": 2},
    }
    back = lessons.read_guidance(path)
    assert back == given
    assert (back.tried, back.won) == ([given.lessons[0]], [given.lessons[0]])
    lost = dataclasses.replace(given.lessons[0], note=made.lessons[0].note)  # the counted one stayed
    assert (dataclasses.replace(given, lessons=[lost]).tried, dataclasses.replace(given, lessons=[lost]).won) == (
        [lost],
        [],
    )
    untried = dataclasses.replace(given, lessons=[chosen(made.lessons[0], tried=False), *made.lessons[1:]])
    assert untried.sha == given.sha  # the note is the same
    assert untried.tried == []


@pytest.mark.parametrize("tried", [True, False])
def test_people_see_what_became_of_the_candidates(made: Guidance, tried: bool) -> None:
    teacher = {"kind": "openai", "name": "big", "asked": 1, "cached": 0, "prompt_tokens": 1, "completion_tokens": 1}
    given = dataclasses.replace(
        made, lessons=[chosen(made.lessons[0], tried), *made.lessons[1:]], teacher={**teacher, "dropped": 3}
    )
    summary = guidance_page.guidance_summary(given)
    assert "3 rules of the teacher left out" in summary
    assert ("Lessons in which a rule of the teacher beat the counted facts: 1 of 1." in summary) is tried
    texts = [guidance_page.guidance_markdown(given)]
    texts += [guidance_page.render_guidance_page(given, "x", language) for language in ("en", "zh")]
    titles = {True: ["4 sentences with such errors"] * 2, False: ["Notes that were not tried"] * 2}[tried]
    titles += ["在 4 句有此类错误的句子和 4 句原本全对的句子上" if tried else "未经试用的说明文字"]
    for text, title in zip(texts, titles, strict=True):
        assert text.count(title) == 1
        assert "规则1" in text
    assert f"| **{given.lessons[0].note.rule['zh']}** | big |" in texts[0].replace(r"\_", "_")
    assert f'<td class="best">{given.lessons[0].note.rule["zh"]}</td>' in texts[1]
    rows = guidance_page.build_guidance_tables(given)["candidates"].rows
    assert [row[3] for row in rows] == ["false", "false", "true"]
    figures = [[4, 3, 4, 0, 2, 0], [4, 2, 4, 1, 2, 1], [4, 1, 4, 0, 2, 2]]
    assert [row[4:] for row in rows] == (figures if tried else [[0] * 6] * 3)
    if tried:
        assert all("half that confirms" in text for text in texts[:2])
        assert "| big | 1 | 0 | 2 | 2 |" in " ".join(texts[0].split())


@pytest.mark.parametrize(
    ("verdicts", "believed"), [(["usual", "gold", "gold"], True), (["usual", "usual", "gold"], False)]
)
def test_false_alarms_are_shown(made: Guidance, tmp_path: Path, verdicts: list[Any], believed: bool) -> None:
    wrong = verdicts.count("usual")
    controls = [dataclasses.replace(made.suspects[0], surface="对照词", verdict=one, reason="因为") for one in verdicts]
    teacher = {"kind": "openai", "name": "big", "asked": 1, "cached": 0, "prompt_tokens": 1, "completion_tokens": 1}
    given = dataclasses.replace(made, controls=controls, teacher=teacher)
    assert lessons.read_guidance(lessons.write_guidance(tmp_path / "guidance.json", given)) == given
    assert given.sha == made.sha
    assert given.alarms == (len(verdicts), wrong)
    summary, page = guidance_page.guidance_summary(given), guidance_page.render_guidance_page(given, "x", "en")
    chinese = guidance_page.render_guidance_page(given, "x", "zh")
    for text in (summary, page):
        assert f"False alarms of the teacher: {wrong} of {len(verdicts)} unusual labels" in text
        assert ("verdicts on suspected labels are therefore not believed" in text) is not believed
    assert f"{len(verdicts)} 个少见、但模型也这样答的标注中有 {wrong} 个" in chinese
    assert ("不予采信" in chinese) is not believed
    for text in (page, chinese, guidance_page.guidance_markdown(given)):
        assert text.count("“对照词”") == len(verdicts)
    assert len(guidance_page.build_guidance_tables(given)["controls"].rows) == len(verdicts)
    silent = dataclasses.replace(given, controls=[dataclasses.replace(controls[0], verdict="", reason="")])
    assert "False alarms" not in guidance_page.guidance_summary(silent)


def test_the_hash_is_of_what_the_notes_say(made: Guidance) -> None:
    assert dataclasses.replace(made, source={}, teacher={"kind": "openai"}).sha == made.sha
    assert dataclasses.replace(made, lessons=made.lessons[1:]).sha != made.sha
    note = Note("x", {"zh": "别的"}, {})
    changed = [dataclasses.replace(made.lessons[0], note=note), *made.lessons[1:]]
    assert dataclasses.replace(made, lessons=changed).sha != made.sha


def _set(value: Any, path: str, new: Any) -> Any:
    changed = copy.deepcopy(value)
    *steps, last = (int(step) if step.isdigit() else step for step in path.split("."))
    place = changed
    for step in steps:
        place = place[step]
    place[last] = new
    return changed


@pytest.mark.parametrize(
    ("path", "new", "message"),
    [
        ("version", 2, "guidance of version 2, this program knows 1"),
        ("kind", "x", "not guidance: kind must be"),
        ("lessons.0.kind", "x", r"lessons\[0\]\.kind must be one of"),
        ("lessons.0.note.rule.zh", 1, r"lessons\[0\]\.note\.rule\.zh must be of type string"),
        ("lessons.0.examples.0.text", "别的", "is not where the example"),
        ("lessons.0.examples.0.predicted.0.text", "别的", "is not where the example"),
        ("lessons.0.examples.0.gold", [], "has no gold entity"),
        ("lessons.0.examples.0.predicted", [], "has no predicted entity"),
        ("lessons.0.count", -1, "must be at least 0"),
        ("lessons.0.facts.surfaces.0.places", -1, r"facts\.surfaces\[0\]\.places must be at least 0, not -1"),
        ("types", {}, "types counts no error"),
        ("types", {"missing": 0}, "types counts no error"),
        ("from_test", None, "from_test must be of type boolean"),
        ("suspects.0.verdict", "maybe", "verdict must be one of"),
        ("failures", [["a", "b"]], r"failures\[0\] must be of type object"),
        ("lessons", {}, r"lessons must be of type array, not {}"),
        ("lessons.0", [], r"lessons\[0\] must be of type object, not \[\]"),
        ("lessons.0.more", 1, r'lessons\[0\] has the unknown key "more"'),
        ("lessons.0.facts", {}, r"lessons\[0\]\.facts lacks the key 'surfaces'"),
        ("lessons.0.surfaces.0", {"text": "x"}, r"lessons\[0\]\.surfaces\[0\] lacks the key 'count'"),
        ("lessons.0.surfaces.0.count", True, "count must be of type integer, not true"),
        ("lessons.0.surfaces.0.count", 1.5, "count must be of type integer, not 1.5"),
        ("lessons.0.examples.0.gold.0", ["x", "y"], r"gold\[0\] must be of type object"),
        ("lessons.0.examples.0.gold.0.start", -1, "is not where the example"),
        ("lessons.0.examples.0.gold.0.more", 1, r'gold\[0\] has the unknown key "more"'),
        ("scores.f1", "0.5", 'scores.f1 must be of type integer or number, not "0.5"'),
        ("scores.f1", -0.5, "scores.f1 must be at least 0, not -0.5"),
        ("teacher.kind", [], r"teacher\.kind must be of type string or integer or null, not \[\]"),
        ("source.run", None, r"source\.run must be of type string, not null"),
        ("split", "x", r"split must be one of 'dev', 'train' or 'test', not \"x\""),
    ],
)
def test_a_broken_file_is_refused_by_name(made: Guidance, tmp_path: Path, path: str, new: Any, message: str) -> None:
    file = tmp_path / "guidance.json"
    assert made.lessons[0].kind in ("confusion", "boundary")  # both have two sides
    file.write_text(json.dumps(_set(made.to_json(), path, new)), encoding="utf-8")
    with pytest.raises(UserError, match=message) as raised:
        lessons.read_guidance(file)
    assert raised.value.where == str(file)


@pytest.mark.parametrize("text", ["[]", "{}", "3", "null"])
def test_other_json_is_no_guidance(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(UserError, match="not guidance"):
        lessons.read_guidance(tmp_path / "x.json")


def hostile() -> Guidance:
    error = ErrtaError("redundant", HOSTILE, (), (Entity(HOSTILE, HOSTILE, 1, 1 + len(HOSTILE)),))
    lesson = dataclasses.replace(lesson_of(error, f"去{HOSTILE}"), note=Note(HOSTILE, {"zh": HOSTILE}, {"zh": HOSTILE}))
    tried = [Candidate(lesson.note, chosen=n == 1, on_cluster=Tried(2, n), on_right=Tried(2, 0)) for n in range(3)]
    lesson = dataclasses.replace(lesson, candidates=tried)
    made = made_up_guidance.guidance(20)
    suspects = [dataclasses.replace(made.suspects[0], surface=HOSTILE, text=HOSTILE, reason=HOSTILE, verdict="gold")]
    teacher = {"kind": "openai", "name": HOSTILE, "asked": 1, "cached": 0, "prompt_tokens": 1, "completion_tokens": 1}
    return dataclasses.replace(
        made, lessons=[lesson], suspects=suspects, teacher=teacher, failures=[Failure(HOSTILE, HOSTILE)],
        source=dict.fromkeys(made.source, HOSTILE), from_test=True,
    )  # fmt: skip


def test_what_comes_from_outside_is_only_text_in_the_page() -> None:
    page = guidance_page.render_guidance_page(hostile(), HOSTILE)
    page.encode("utf-8")
    body = page.partition("</style>\n</head>")[2]
    assert "<script" not in page
    assert body.count("&lt;script&gt;") > 10
    assert "script-src ;" in page
    assert "has seen the answers" in page


def test_markdown_keeps_its_form() -> None:
    text = guidance_page.guidance_markdown(hostile())
    text.encode("utf-8")
    outside = [line for line in text.splitlines() if not line.startswith("    ")]
    assert [line for line in outside if line.startswith("#")][1:] == [
        line for line in outside if line.startswith("## ")
    ]
    assert not any("<script>" in line for line in outside)


def test_people_are_told_whose_word_it_is(made: Guidance) -> None:
    assert "no teacher was asked" in guidance_page.guidance_summary(made)
    for text in (guidance_page.guidance_markdown(made), guidance_page.render_guidance_page(made, "x")):
        assert "no teacher was asked" in text
        assert "Note by counting in the training split" in text
    assert "1 question without an answer" in guidance_page.guidance_author(hostile())


@pytest.mark.parametrize("page", ["README.md", "docs/README.zh.md", "experiments/real_models/README.md"])
def test_pages_quote_what_the_command_prints(page: str, made: Guidance) -> None:
    quoted = dataclasses.replace(
        made,
        source=made.source | {"name": "base"},
        scores={"errors": 403, "sentences": 400, "f1": 0.6617},
        lessons=made.lessons[:1] * 20,
        rest={"clusters": 58, "errors": 143},
    )
    head, lessons, *_ = guidance_page.guidance_summary(quoted).splitlines()
    lines = [line.strip() for line in (ROOT / page).read_text(encoding="utf-8").splitlines()]
    assert lines[lines.index(head) + 1] == lessons.strip()


def test_tables_have_a_row_for_each(made: Guidance) -> None:
    sheets = guidance_page.build_guidance_tables(made)
    assert [len(sheets[name].rows) for name in ("lessons", "suspects")] == [len(made.lessons), len(made.suspects)]
    for table in sheets.values():
        assert all(len(row) == len(table.columns) for row in table.rows)
