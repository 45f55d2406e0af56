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
from omniner.wording import language_of

LOGS = ("log", "issues", "notes")  # what gets issues by `add(code, ...)`
PLACES = {"Issue": 0, "add": 0, "LeftOut": 1, "Tag": 2}  # argument of a call that is a code
COMPUTED = {"lost-id", "lost-meta", "lost-post-id", "label-repaired", "label-failed"}  # of two parts


def written() -> Iterator[tuple[str, str]]:
    """Module and code of every place in the source that gives a code as a literal."""
    for name, path in source_tree.modules().items():
        for node in ast.walk(source_tree.tree(path)):
            for code in literals(node):
                if isinstance(code, ast.Constant) and isinstance(code.value, str) and code.value:
                    yield name, code.value


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


def test_every_code_in_the_source_has_a_meaning() -> None:
    found = list(written())
    assert len(found) > 100
    assert [(name, code) for name, code in found if code not in ISSUE_CODES] == []


def test_every_code_with_a_meaning_is_used() -> None:
    texts = {
        node.value
        for name, path in source_tree.modules().items()
        if name != issue_codes.__name__
        for node in ast.walk(source_tree.tree(path))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    assert set(ISSUE_CODES) - texts == COMPUTED


def test_a_code_without_a_meaning_is_refused() -> None:
    with pytest.raises(ValueError, match="'bad-jsn' is no code of issues"):
        Issue("bad-jsn", "broken")


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
