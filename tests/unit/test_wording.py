"""English and Chinese stand beside each other: no text of a page without the other, none left over, the same values."""

from __future__ import annotations

import ast
import copy
import json
import pickle
import re
import string
from collections.abc import Iterator

import pytest
import source_tree

from omniner.wording import Wording, catalogue, counted, first_of, language_of, shortened

PAGES = source_tree.SOURCE / "omniner" / "report" / "pages"


def literals() -> Iterator[str]:
    """Every text that modules, templates and scripts can show in either language."""
    for path in source_tree.modules().values():
        for node in ast.walk(source_tree.tree(path)):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
                continue
            taken = {"Wording": node.args[:1], "columns": node.args[1:], "add_check": node.args[:1]}
            for argument in taken.get(node.func.id, ()):
                if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
                    yield argument.value
    for path in PAGES.iterdir():
        yield from map(json.loads, re.findall(r'\bsay\(("(?:[^"\\]|\\.)*")', path.read_text(encoding="utf-8")))


def fields(template: str) -> list[tuple[str, str]]:
    """Names and forms; what is counted by name in English (`{count:error}`) is a number with commas in Chinese."""
    parts = [(name, form or "") for _, name, form, _ in string.Formatter().parse(template) if name is not None]
    return sorted((name, "," if re.fullmatch(r"[a-z ]{2,}", form) else form) for name, form in parts)


def test_every_text_of_the_pages_has_a_chinese_one() -> None:
    assert sorted(set(literals()) - set(catalogue())) == []


def test_both_languages_show_the_same_values_in_the_same_form() -> None:
    assert [english for english, chinese in catalogue().items() if fields(english) != fields(chinese)] == []


def test_nothing_is_translated_that_nothing_says() -> None:
    nodes = (node for path in source_tree.modules().values() for node in ast.walk(source_tree.tree(path)))
    texts = {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    named = {
        node.name
        for path in source_tree.modules().values()
        for node in ast.walk(source_tree.tree(path))
        if isinstance(node, (ast.FunctionDef, ast.ClassDef))
    }
    words = {word for text in texts | named if len(text) < 200 for word in re.split(r"[\W_]+", text.lower())}
    said = texts | set(literals())
    # names of columns and checks may be put together from words
    left = [
        text
        for text in catalogue()
        if text not in said and not (len(text) < 25 and words.issuperset(re.split(r"[\W_]+", text.lower())))
    ]
    assert left == []


def test_a_wording_is_its_english_text_until_it_is_asked() -> None:
    inner = Wording("{found:,} found", found=1200)
    text = Wording.joined(", ", [inner, "raw {name}"])
    assert (text, text.of("en"), text.of("zh")) == ("1,200 found, raw {name}", text, "找到 1,200 个、raw {name}")
    assert json.loads(json.dumps([text])) == [text]
    for again in (copy.deepcopy(text), pickle.loads(pickle.dumps(text))):
        assert (again, again.of("zh")) == (text, text.of("zh"))
    assert Wording("nobody has translated {this}").of("zh") == "nobody has translated {this}"


@pytest.mark.parametrize(
    ("number", "one", "said"),
    [
        (0, "error", "0 errors"),
        (1, "dev sentence", "1 dev sentence"),
        (2000, "category", "2,000 categories"),
        (2, "process", "2 processes"),
        (3, "day", "3 days"),
    ],
)
def test_what_is_counted_stands_in_the_right_number(number: int, one: str, said: str) -> None:
    assert counted(number, one) == said
    assert Wording(f"{{count:{one}}} in {{share:.1%}} of {{all:d}}", count=number, share=0.5, all=3) == (
        f"{said} in 50.0% of 3"
    )


@pytest.mark.parametrize(
    ("texts", "language"),
    [
        (["我爱吃小满的茶"], "zh"),
        (["I love tea", "我"], "en"),
        (["iPhone 16 拍照还可以吧，就是贵了点"], "zh"),
        ([], "en"),
        (["123 😀"], "en"),
    ],
)
def test_the_language_of_a_corpus_is_that_of_most_of_its_letters(texts: list[str], language: str) -> None:
    assert language_of(texts) == language


def test_dots_stand_for_what_is_left_out() -> None:
    assert (shortened("品牌", 2), shortened("品牌名", 2)) == ("品牌", "品…")
    assert (first_of(["a", "b"], 2), first_of(["a", "b", "c"], 2)) == ("a, b", "a, b, ...")
    assert first_of(["a", "b"], 1, "; ") == "a; ..."
