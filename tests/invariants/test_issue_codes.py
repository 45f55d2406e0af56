"""Every code of issues has a meaning in both languages, and the source knows no other code."""

from __future__ import annotations

import ast
from collections.abc import Iterator

import pytest
import source_tree

from omniner import issue_codes
from omniner.config.reference import issues_markdown
from omniner.issue_codes import ISSUE_CODES
from omniner.records import Issue
from omniner.registry import HEADS
from omniner.wording import language_of

LOGS = ("log", "issues", "notes")  # what gets issues by `add(code, ...)`
PLACES = {"Issue": 0, "add": 0, "LeftOut": 1, "Tag": 2}  # argument of a call that is a code


def fields_that_get_lost() -> list[str]:
    """The names of `fields` in `write_corpus`: a format without one of them has an issue `lost-<name>`."""
    for node in ast.walk(source_tree.tree(source_tree.modules()["omniner.corpus.formats"])):
        if (
            isinstance(node, ast.AnnAssign)
            and ast.unparse(node.target) == "fields"
            and isinstance(node.value, ast.Dict)
        ):
            return [ast.literal_eval(key) for key in node.value.keys if key is not None]
    raise AssertionError("omniner.corpus.formats has no table of fields that can get lost")


COMPOSED = {  # the codes that an f-string can make
    "lost-*": {f"lost-{name.replace('_', '-')}" for name in fields_that_get_lost()},
    "label-*": {"label-repaired", "label-failed"},
}


def written() -> Iterator[tuple[str, str]]:
    """Module and code of every place in the source that makes an issue of a code; what an f-string inserts is `*`."""
    for name, path in source_tree.modules().items():
        tree = source_tree.tree(path)
        returned = {node.name: list(results(node)) for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
        for node in ast.walk(tree):
            for code in literals(node):
                for text in texts(code, returned):
                    yield name, text


def literals(node: ast.AST) -> Iterator[ast.expr]:
    """The expressions in a node that are codes."""
    if isinstance(node, ast.Call):
        called = ast.unparse(node.func)
        function = called.rpartition(".")[2]
        is_log = called.removesuffix(".add").endswith(LOGS)
        place = PLACES.get(function)
        if place is not None and (function != "add" or is_log):
            yield from node.args[place : place + 1]
        yield from (keyword.value for keyword in node.keywords if keyword.arg == "code" and function == "_replace")
    elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Tuple) and isinstance(node.value, ast.Tuple):
        pairs = zip(node.targets[0].elts, node.value.elts, strict=True)
        yield from (value for target, value in pairs if ast.unparse(target) == "code")


def results(function: ast.FunctionDef) -> Iterator[ast.expr]:
    """What a function returns."""
    found = (node.value for node in ast.walk(function) if isinstance(node, ast.Return))
    return (value for value in found if value is not None)


def texts(code: ast.expr, returned: dict[str, list[ast.expr]]) -> Iterator[str]:
    """The values of an expression that is a code, as far as its module tells: also those that its function returns."""
    if isinstance(code, ast.Constant):
        yield from [code.value] if isinstance(code.value, str) and code.value else []
    elif isinstance(code, ast.JoinedStr):
        yield "".join(part.value if isinstance(part, ast.Constant) else "*" for part in code.values)
    elif isinstance(code, ast.IfExp):
        yield from (text for way in (code.body, code.orelse) for text in texts(way, returned))
    elif isinstance(code, ast.Call) and isinstance(code.func, ast.Name):
        yield from (text for value in returned.get(code.func.id, []) for text in texts(value, {}))


def test_every_code_in_the_source_has_a_meaning() -> None:
    found = list(written())
    assert len(found) > 100
    assert {code for _, code in found} >= {"nested-entity", "overlapping-entity", *COMPOSED}
    known = {*ISSUE_CODES, *COMPOSED}
    assert [(name, code) for name, code in found if code not in known] == []
    assert [code for codes in COMPOSED.values() for code in codes if code not in ISSUE_CODES] == []


def test_every_code_with_a_meaning_is_used() -> None:
    found = {code for _, code in written()}
    used = {one for code in found for one in COMPOSED.get(code, {code})}
    assert sorted(set(ISSUE_CODES) - used) == []


def test_a_word_that_makes_no_issue_does_not_count_as_a_code() -> None:
    source = """
def kind(x):
    return "b" if x else f"c-{x}"
def read(log, x):
    texts.add("no")
    log.add("a", "no")
    log.add(kind(x), "no")
    state = "no"
"""
    tree = ast.parse(source)
    returned = {node.name: list(results(node)) for node in tree.body if isinstance(node, ast.FunctionDef)}
    found = [text for node in ast.walk(tree) for code in literals(node) for text in texts(code, returned)]
    assert found == ["a", "b", "c-*"]


def test_an_issue_of_a_code_without_a_meaning_is_kept_with_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("WARNING", logger="omniner"):
        issues = [Issue("my-own-code", "broken", line=line) for line in (1, 2)]
    assert [(issue.code, issue.line) for issue in issues] == [("my-own-code", 1), ("my-own-code", 2)]
    assert [record.getMessage() for record in caplog.records] == [
        "issue code 'my-own-code' has no meaning: add it to ISSUE_CODES, so that pages can say what to do"
    ]
    assert issue_codes.explained("my-own-code") == ("", "")


def test_the_advice_on_nested_entities_names_the_heads_for_them() -> None:
    heads = " or ".join(f"head={name}" for name in HEADS if HEADS.peek(name, "nested"))
    assert ISSUE_CODES["nested-entity"].advice == f"Choose {heads}."


def test_a_meaning_is_given_in_both_languages() -> None:
    for code, entry in ISSUE_CODES.items():
        for text in issue_codes.explained(code):
            assert language_of([text.of("en")]) == "en", code
            assert text.of("zh") != text.of("en"), code
            assert text.of("zh").endswith(("。", "？")), code
            assert text.endswith((".", "?")), code
        assert "|" not in entry.meaning + entry.advice, code  # it would divide a cell of the reference
    with pytest.raises(ValueError, match="both languages"):
        issue_codes.IssueCode("x", "reading", "lost", "Nothing.", "", "无需处理。")


def test_the_reference_explains_every_code() -> None:
    document = source_tree.SOURCE.parent / "docs" / "reference" / "issues.md"
    assert document.read_text(encoding="utf-8") == issues_markdown().rstrip("\n") + "\n", "run `make docs`"
    assert issues_markdown().count("\n| `") == len(ISSUE_CODES)
