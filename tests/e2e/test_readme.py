"""The commands of the README and the site are real: each composes, and those that need no corpus of yours are run."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from urllib.parse import quote, unquote

import browser
import pytest

from omniner.config import compose
from omniner.corpus.formats import jsonl
from omniner.corpus.sample import generate_sample
from tests.conftest import ROOT
from tests.e2e.conftest import TINY, TINY_CAUSAL, folder_of, omniner

README = (ROOT / "README.md").read_text(encoding="utf-8")
DOCS = sorted((ROOT / "docs").rglob("*.md"))
PAGES = [page.read_text(encoding="utf-8") for page in DOCS]
CHINESE = {
    page: ROOT / "README.md" if page.name == "README.zh.md" else page.with_name(page.name.replace(".zh", ""))
    for page in DOCS
    if page.name.endswith(".zh.md")
}
OWN_DATA = (ROOT / "docs" / "tutorials" / "own_data.md").read_text(encoding="utf-8")


def lines_of(text: str) -> list[str]:
    """The commands of a page."""
    blocks = re.findall(r"```bash\n(.*?)```", text, flags=re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if line.strip()]


def outline_of(page: Path) -> dict[str, object]:
    """What a page has in every language: commands, sections, names of keys and files, links, measured figures."""
    text = page.read_text(encoding="utf-8")
    blocks = re.findall(r"```(\w+)\n(.*?)```", text, flags=re.DOTALL)
    prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    links = [target for target in re.findall(r"\]\(([^)\s]+)\)", prose) if ":" not in target]
    targets = {((page.parent / path).resolve(), anchor) for path, _, anchor in (link.partition("#") for link in links)}
    itself = [side for pair in CHINESE.items() if page in pair for side in pair]
    return {
        "blocks": [(language, re.sub(r"[^\S\n]+#.*", "", block)) for language, block in blocks],
        "sections": [len(marks) for marks in re.findall(r"^(#+) ", prose, flags=re.MULTILINE)],
        "code": set(re.findall(r"`([^`\n]+)`", prose)),
        "links": {(str(path).replace(".zh.", "."), anchor) for path, anchor in targets if path not in itself},
        "figures": Counter(re.findall(r"\d+\.\d+", prose)),
    }


def arguments_of(lines: list[str]) -> list[list[str]]:
    return [shlex.split(line, comments=True)[3:] for line in lines if line.startswith("python -m omniner.run")]


LINES = lines_of(README)
COMMANDS = arguments_of(LINES)
ALL_LINES = [line for text in (README, *PAGES) for line in lines_of(text)]
ALL_COMMANDS = sorted(map(list, {tuple(arguments) for arguments in arguments_of(ALL_LINES)}))
TARGETS = [shlex.split(line, comments=True)[1] for line in LINES if line.startswith("make ")]


def test_every_line_is_a_command_of_ours() -> None:
    assert len(COMMANDS) >= 10
    assert [line for line in ALL_LINES if not line.startswith(("python -m omniner.run", "make "))] == []


@pytest.mark.parametrize("chinese", CHINESE, ids=lambda page: page.name)
def test_a_chinese_page_is_the_english_one_in_chinese(chinese: Path) -> None:
    """Commands that compose and run in English do so in Chinese, and neither page has what the other lacks."""
    english = CHINESE[chinese]
    assert outline_of(chinese) == outline_of(english)
    for page, other in ((english, chinese), (chinese, english)):
        assert f"({os.path.relpath(other, page.parent)})" in page.read_text(encoding="utf-8")


def test_every_chinese_page_is_on_the_site() -> None:
    menu = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").partition("  - 中文:")[2]
    assert len(CHINESE) >= 3
    assert [page for page in CHINESE if f": {page.relative_to(ROOT / 'docs').as_posix()}\n" not in menu] == []


@pytest.mark.parametrize("page", [ROOT / "README.md", *DOCS], ids=lambda page: page.name)
def test_links_lead_to_files(page: Path) -> None:
    prose = re.sub(r"```.*?```|`[^`\n]+`", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    links = [target.partition("#")[0] for target in re.findall(r"\]\(([^)\s]+)\)", prose) if ":" not in target]
    assert [path for path in links if path and not (page.parent / path).exists()] == []


@pytest.mark.parametrize("target", sorted(set(TARGETS) | {"test", "check"}))
def test_make_targets_exist_and_are_explained(target: str) -> None:
    assert re.search(rf"^{target}:.*## \w", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)


@pytest.mark.parametrize("arguments", [c for c in ALL_COMMANDS if "--help" not in c], ids=" ".join)
def test_every_command_composes(arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in (
        "generated_predictions.jsonl",
        "model.gguf",
        "predictions.jsonl",
        "gold.jsonl",
        "sentences.jsonl",
        "a.jsonl",
        "b.jsonl",
        "c.jsonl",
        "kept.jsonl",
        "export.json",
        "answers.jsonl",
    ):
        (tmp_path / name).touch()
    for name in ("my_run", "internlm2_5-7b-chat", "predicted"):
        (tmp_path / name).mkdir()
    (tmp_path / "predicted" / "predictions.jsonl").touch()
    if "-m" in arguments and any(argument.startswith("hydra/") for argument in arguments):
        pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
        pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    single = [re.sub(r"=(\w+),[\w,]+$", r"=\1", argument) for argument in arguments if argument != "-m"]
    single = [re.sub(r"=tag\(.*interval\(([^,]+),.*$", r"=\1", argument) for argument in single]
    assert compose.load(single).name


def _runnable(arguments: list[str]) -> bool:
    return not any(
        argument.startswith(
            (
                "--",
                "-m",
                "data",
                "experiment",
                "task=s",
                "task=p",
                "task=chat",
                "to=merged",
                "to=serve",
                "input=",
                "run=",
                "runs=",
                "annotators=",
            )
        )
        or re.match(r"model=(?!qwen2_tiny)", argument)
        for argument in arguments
    )


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [c for c in COMMANDS if _runnable(c)], ids=lambda c: " ".join(c) or "defaults")
def test_commands_on_the_sample_corpus_run(arguments: list[str], tmp_path: Path) -> None:
    tiny = TINY_CAUSAL if "model=qwen2_tiny" in arguments else TINY
    small = [item for item in tiny if item.split("=")[0] not in {argument.split("=")[0] for argument in arguments}]
    result = omniner(*small, "trainer.max_epochs=1", *arguments, "tracking=off", cwd=tmp_path)
    assert folder_of(result, tmp_path).is_dir()


@pytest.mark.slow
def test_the_comparing_commands_run(tmp_path: Path) -> None:
    line = '{"id": "1", "text": "喝小满", "entities": [{"text": "小满", "category": "品牌", "start": 1, "end": 3}]}\n'
    for folder in (tmp_path, tmp_path / "my_run", tmp_path / "other_run"):
        folder.mkdir(exist_ok=True)
        (folder / "gold.jsonl").write_text(line, encoding="utf-8")
        (folder / "predictions.jsonl").write_text(line, encoding="utf-8")
    for name in ("a", "b", "c"):
        (tmp_path / f"{name}.jsonl").write_text(line, encoding="utf-8")
    commands = [arguments for arguments in COMMANDS if "task=compare" in arguments]
    assert len(commands) == 3
    for arguments in commands:
        folder = folder_of(omniner(*arguments, "tracking=off", cwd=tmp_path), tmp_path)
        assert (folder / "comparison.html").is_file()


@pytest.mark.slow
def test_the_scoring_commands_run(shared: Path, tmp_path: Path) -> None:
    shutil.copy(shared / "reference" / "omni_mixed" / "generated_predictions.jsonl", tmp_path)
    gold = '{"id": "1", "text": "喝小满", "entities": [{"text": "小满", "category": "品牌", "start": 1, "end": 3}]}\n'
    (tmp_path / "gold.jsonl").write_text(gold, encoding="utf-8")
    (tmp_path / "predictions.jsonl").write_text(gold, encoding="utf-8")
    commands = [arguments for arguments in COMMANDS if "task=score" in arguments]
    assert len(commands) == 2
    for arguments in commands:
        omniner(*arguments, "tracking=off", cwd=tmp_path)


@pytest.mark.slow
def test_your_own_data_in_five_minutes(tmp_path: Path) -> None:
    """The tutorial, command by command, ends in a marked sentence and in tasks to correct."""
    sentences = generate_sample({"train": 60}, 1)["train"]
    jsonl.write(tmp_path / "sentences.jsonl", sentences)
    printed = []
    for arguments in arguments_of(lines_of(OWN_DATA)):
        small = [item for item in TINY if not item.startswith("data")] if "data=own" in arguments else []
        result = omniner(*arguments, *small, cwd=tmp_path)  # tracked: my_run is found by its name
        printed.append(result.stdout)
        if "checkpoint=my_run" in arguments and (folder_of(result, tmp_path) / "predictions.jsonl").is_file():
            shutil.copy(folder_of(result, tmp_path) / "predictions.jsonl", tmp_path)
    assert "今天去喝了小满的茶" in re.sub(r"[\[\]]|\|[^\]]*", "", printed[3])
    assert len(json.loads((tmp_path / "tasks.json").read_text(encoding="utf-8"))) == len(sentences)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site; a broken link fails the build."""
    folder = tmp_path_factory.mktemp("site")
    mkdocs = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    found = subprocess.run(
        mkdocs, cwd=ROOT, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True
    )
    assert found.returncode == 0, found.stdout + found.stderr
    return folder


@pytest.mark.slow
def test_every_link_of_the_site_leads_to_a_file_that_opens_from_disk(site: Path) -> None:
    pages = [page for page in site.rglob("*.html") if page.name != "404.html"]  # that one is for servers alone
    assert {site / "index.html", site / "tutorials" / "own_data.html"} <= set(pages)
    for page in pages:
        links = set(re.findall(r'(?:href|src)="?([^"\s>]+)', page.read_text(encoding="utf-8")))
        paths = {unquote(link.partition("#")[0]) for link in links if not re.match(r"[\w+]+:", link)} - {""}
        assert [path for path in paths if not (page.parent / path).is_file()] == [], page
        loaded = re.findall(r'<(?:script|link)[^>]*(?:src|href)="?(https?:[^"\s>]+)', page.read_text(encoding="utf-8"))
        assert loaded == [], f"{page} loads what is not there without a network"


@pytest.mark.slow
@pytest.mark.skipif(browser.binary() is None, reason="no Chromium here")
def test_chinese_is_found_on_the_site_opened_from_disk(site: Path) -> None:
    hits = "[...document.querySelectorAll('.md-search-result__item > a')].map(link => link.href)"
    with browser.chromium() as page:
        page.call("Page.navigate", url=f"{(site / 'index.html').as_uri()}?q={quote('错误类型')}")
        deadline = time.monotonic() + 60
        while not (found := page.run(hits)):
            assert time.monotonic() < deadline, page.errors
            time.sleep(0.05)
        assert any("README.zh.html" in hit for hit in found), found
        assert page.errors == []


@pytest.mark.slow
@pytest.mark.skipif(browser.binary() is None, reason="no Chromium here")
def test_a_key_stands_in_one_line(site: Path) -> None:
    keys = "[...document.querySelectorAll('td:first-child code')]"
    with browser.chromium() as page:
        page.call("Page.navigate", url=(site / "configuration.html").as_uri())
        deadline = time.monotonic() + 60
        while not page.run(f"document.readyState === 'complete' && {keys}.length"):
            assert time.monotonic() < deadline, page.errors
            time.sleep(0.05)
        broken = f"{keys}.filter(key => key.getClientRects().length > 1).map(key => key.textContent)"
        assert page.run(broken) == []
