"""What is known of an entry without importing its module."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from omniner.config import compose, run_config
from omniner.errors import UserError
from omniner.registry import Registry, load_extensions

MODULE = '''"""An entry."""

HELPER = dict({helper})
ENTRY: object = dict(
    name="one",
    {entry}
)
raise RuntimeError("imported")
'''


@pytest.mark.parametrize(
    ("helper", "entry", "given"), [("write=None", "write=1", True), ("write=1", "write=None", False)]
)
def test_a_field_is_that_of_the_entry_alone(
    helper: str, entry: str, given: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = f"entries_{given}".lower()
    (tmp_path / package).mkdir()
    for name, text in (("__init__", ""), ("one", MODULE.format(helper=helper, entry=entry))):
        (tmp_path / package / f"{name}.py").write_text(text)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    found: Registry[Any] = Registry("entry", package, "ENTRY")
    assert found.gives("one", "write") == given
    assert found.meaning("one") == "An entry."


EXTENSION = '''"""An export."""
import json
from omniner.corpus.formats import Format
from omniner.records import Entity, Sentence
from omniner.registry import FORMATS

def read(path, options):
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [Sentence("", text, [Entity(text[a:b], c, a, b) for a, b, c in marks]) for text, marks in rows], []

FORMATS.add(Format(name="my_export", meaning=__doc__, read=read, write=None, suffix=""))
'''


@pytest.mark.parametrize(
    "begin", [["-m", "omniner.run"], ["-P", "-c", "from omniner.run import main; main()"]], ids=["python -m", "omniner"]
)
def test_a_module_named_in_the_environment_adds_what_commands_then_know(tmp_path: Path, begin: list[str]) -> None:
    (tmp_path / "my_modules").mkdir()
    (tmp_path / "my_modules" / "export.py").write_text(EXTENSION, encoding="utf-8")
    (tmp_path / "given.jsonl").write_text(json.dumps(["去喝小满", [[2, 4, "品牌"]]]), encoding="utf-8")
    words = ["task=convert", "to=jsonl", "input=given.jsonl", "output=out.jsonl", "tracking=off"]
    command = [sys.executable, *begin, *words, "data.format=my_export"]
    environment = {**os.environ, "OMNINER_EXTENSIONS": " my_modules.export,"}
    subprocess.run(command, cwd=tmp_path, env=environment, check=True, capture_output=True)
    [found] = (tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()
    assert json.loads(found)["entities"] == [{"text": "小满", "category": "品牌", "start": 2, "end": 4}]


READS = "import omniner; print(omniner.read('given.jsonl', 'my_export')[0].entities[0].category)"
WRITES = "import omniner; omniner.write([], 'out', 'my_export')"
WRITER = EXTENSION.replace("write=None", "write=lambda path, sentences, options: print('written') or []")
COMPOSES = "from omniner.config import compose; print(compose.load(['head=auto', 'head.kind=mine']).head.kind)"
SERVES = """from types import SimpleNamespace
from omniner import models
from omniner.tracking.pyfunc import PyfuncModel
models.load_predictor = lambda config, checkpoint: print(config.head.kind)
files = {"config": "config.yaml", "checkpoint": "best.ckpt"}
PyfuncModel().load_context(SimpleNamespace(artifacts=files, model_config=None))
"""
HEAD = """from omniner.registry import HEADS
from omniner.taggers.heads import Head
HEADS.add(Head(name="mine", description="mine.", build=None, nested=False, members=True))
"""


@pytest.mark.parametrize(
    ("module", "program", "printed"),
    [(EXTENSION, READS, "品牌"), (WRITER, WRITES, "written"), (HEAD, COMPOSES, "mine"), (HEAD, SERVES, "mine")],
    ids=["read", "write", "compose", "mlflow"],
)
def test_programs_know_what_it_adds_as_commands_do(tmp_path: Path, module: str, program: str, printed: str) -> None:
    (tmp_path / "my_module.py").write_text(module, encoding="utf-8")
    (tmp_path / "given.jsonl").write_text(json.dumps(["去喝小满", [[2, 4, "品牌"]]]), encoding="utf-8")
    config = run_config.to_yaml(compose.load([])).replace("kind: crf", "kind: mine")
    (tmp_path / "config.yaml").write_text(config, encoding="utf-8")
    environment = {**os.environ, "OMNINER_EXTENSIONS": "my_module"}
    command = [sys.executable, "-P", "-c", program]
    done = subprocess.run(command, cwd=tmp_path, env=environment, check=False, capture_output=True, text=True)
    assert done.stdout.strip() == printed, done.stderr


def test_a_module_that_is_not_there_is_told_and_one_that_fails_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "lacks_another.py").write_text("import not_there_either")
    for name in ("not_there", "not_there.module", "lacks_another.part"):
        monkeypatch.setenv("OMNINER_EXTENSIONS", name)
        with pytest.raises((UserError, ModuleNotFoundError)) as caught:
            load_extensions()
        assert isinstance(caught.value, UserError) == name.startswith("not_there"), name
