"""What can be configured, for people: the text of `--help`, and `docs/configuration.md`.

Nothing is described here: what a key means and may be stands at its field in `omniner.config.groups`, its value in
`conf/`, and what a choice is for in the first line of its file.

    python -m omniner.config.reference                   # all of it, as Markdown
    python -m omniner.config.reference trainer decoding  # these groups
    python -m omniner.config.reference --tasks           # what each task does, reads and writes

What a task does stands in the docstring of its module.
"""

from __future__ import annotations

import argparse
import ast
import inspect
import sys
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

from omegaconf import OmegaConf

from omniner.config import groups
from omniner.config.compose import compose, conf_folder
from omniner.config.validate import Wanted, hints, take_apart
from omniner.registry import TASKS

USAGE = """\
OmniNER: train, test and understand taggers for fine-grained Chinese named entities.

usage: python -m omniner.run [group=choice ...] [key=value ...]
  python -m omniner.run                                  train and score on the built-in sample corpus
  python -m omniner.run data=cluener head=crf            another corpus, another head
  python -m omniner.run task=check data=weibo            look at the data and the batches first
  python -m omniner.run task=stats corpora=[weibo,FILE]  count corpora, and find what is wrong with them
  python -m omniner.run task=predict checkpoint=A text="..."  tag a sentence; task=chat asks for one after the other
  python -m omniner.run task=score predictions=FILE      score any system's predictions
  python -m omniner.run task=compare runs=[A,B]          what became better and worse, and whether it is chance
  python -m omniner.run task=adjudicate annotators=[A,B,C]   one corpus of several people's labels
  python -m omniner.run task=agreement annotators=[A,B,C]    how well they agree
  python -m omniner.run task=guide run=A                 notes on its errors on dev, for prompt.from_run
  python -m omniner.run task=search prompt.from_run=G    the best prompt that such notes make
  python -m omniner.run -m head=softmax,crf seed=1,2,3   a sweep: one parent run, a child per combination

Groups and their choices (group=choice)

{choices}

Flags: --cfg job (print the composed configuration), --resolve, -m (sweep), --config-dir DIR (your own groups)
Every key with its meaning, unit and default: docs/configuration.md, or python -m omniner.config.reference [group ...]
"""


LONGEST = 100  # characters of a value that a table shows

HEADER = """\
# Configuration

Made by `make docs` from the types in `src/omniner/config` and the values in `conf/`: do not edit.

A run is a choice from each group (`data=cluener`) plus single keys (`trainer.max_epochs=5`). A choice is a file
`conf/<group>/<choice>.yaml`; a key stands in its group (`trainer.warmup`) or in none (`seed`). In the values, `${a.b}`
is that of another key, and `???` must be given. Where keys are free, `+` adds one: `+data.files.extra=[a.jsonl]`;
elsewhere a key that is not listed here is refused.
"""

TASKS_HEADER = """\
# Tasks

Made by `make docs` from the modules in `src/omniner/tasks`: do not edit.

`task=` chooses what a run does; without it, it trains. Every run has a folder (`output_dir`, else one of its own) with
its configuration, its state and `issues.jsonl`; what a task leaves beside these is named here.
"""


def help_text(arguments: Sequence[str] = ()) -> str:
    """What `--help` prints.

    Args:
        arguments: of the command line; `--config-dir` names a folder with groups of the user's own.
    """
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--config-dir", "-cd", type=Path)
    own = parser.parse_known_args(arguments)[0].config_dir
    names: dict[str, set[str]] = {"task": set(TASKS)}
    for folder in (conf_folder(), *([own] if own else [])):
        for group in filter(Path.is_dir, folder.glob("[!_.]*")):
            names.setdefault(group.name, set()).update(choices(group))
    listed = [f"{group}: {', '.join(sorted(of))}" for group, of in sorted(names.items()) if of and group != "hydra"]
    return USAGE.format(choices="\n".join(listed))


def choices(group: Path) -> dict[str, str]:
    """The choices of a folder of `conf/`, each with what its first line says of it.

    A file whose name begins with `_` is none: it holds what several choices extend.
    """
    found = {}
    for path in sorted(group.glob("[!_]*.yaml")):
        lines = path.read_text(encoding="utf-8").splitlines()
        found[path.stem] = next((line[2:] for line in lines if not line.startswith("# @package")), "")
    return found


def markdown(names: Sequence[str] = ()) -> str:
    """The reference of all groups, or of those named, as Markdown."""
    defaults = cast(dict[str, Any], OmegaConf.to_container(compose([])))
    parts = []
    if not names:
        alone = {key: item for key, item in hints(groups.Config).items() if not take_apart(item).groups}
        parts = [HEADER, "## Keys in no group\n", _table(groups.Config, alone, defaults)]
    for name, annotation in hints(groups.Config).items():
        if take_apart(annotation).groups and (not names or name in names):
            parts += _section(name, take_apart(annotation), defaults[name])
    return "\n".join(parts)


def tasks_markdown() -> str:
    """The reference of all tasks, as Markdown."""
    parts = [TASKS_HEADER]
    for name, task in sorted(TASKS.items()):
        title, _, text = inspect.cleandoc(task.description).partition("\n")
        title = title.partition(": ")[2]
        parts.append(f"## `task={name}`\n\n{title[:1].upper()}{title[1:]}\n{text}\n")
        rows = {
            "reads": [one.key for one in task.inputs],
            "writes": task.outputs,
        }
        parts += [f"- {what}: {', '.join(f'`{each}`' for each in names)}" for what, names in rows.items() if names]
        parts.append("")
    return "\n".join(parts)


def _section(name: str, wanted: Wanted, defaults: Mapping[str, Any]) -> Iterator[str]:
    folder = conf_folder() / name
    if wanted.what:
        yield f"## `{name}`\n\n{inspect.getdoc(wanted.what)}\n"
    else:
        yield f"## `{name}`\n"
    if folder.is_dir():
        yield "| choice | what it is |\n| --- | --- |"
        yield "".join(f"| `{choice}` | {_cell(meaning)} |\n" for choice, meaning in choices(folder).items())
    if wanted.what:
        yield _table(wanted.what, hints(wanted.what), defaults)
    for kind, group in wanted.kinds.items():
        yield f"### `{name}.kind`: {kind}\n\n{inspect.getdoc(group)}\n"
        yield _table(group, hints(group), _of_kind(name, kind))


def _of_kind(name: str, kind: str) -> Mapping[str, Any]:
    """The values of the file that has all keys of a kind, which the other files extend."""
    for path in (conf_folder() / name).glob("*.yaml"):
        values = cast(dict[str, Any], OmegaConf.to_container(OmegaConf.load(path)))
        if values.get("kind") == kind:
            return values
    raise AssertionError(f"no file of conf/{name} has kind: {kind}")


def _table(group: type, keys: Mapping[str, Any], defaults: Mapping[str, Any]) -> str:
    meanings = descriptions(group)
    rows = ["| key | may be | by default | what it is |", "| --- | --- | --- | --- |"]
    for key, annotation in keys.items():
        wanted = take_apart(annotation)
        may_be = wanted.describe().removeprefix("one of: ").removeprefix("a ")
        if wanted.nullable:
            may_be += ", or null"
        value = _cell(_yaml(defaults[key]))
        value = f"`{value}`" if len(value) <= LONGEST else "see `conf/`"
        rows.append(f"| `{key}` | {_cell(may_be)} | {value} | {_cell(meanings[key])} |")
    return "\n".join(rows) + "\n"


def _yaml(value: Any) -> str:
    """A value as one would write it on the command line."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_yaml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_yaml, value)) + "]"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value) or '""'


def _cell(text: str) -> str:
    """Text that stands in a cell of a table."""
    return " ".join(text.split()).replace("|", "\\|")


def descriptions(group: type) -> dict[str, str]:
    """What the fields of a group mean: the line under each."""
    tree = ast.parse(inspect.getsource(group))
    (body,) = [node.body for node in tree.body if isinstance(node, ast.ClassDef)]
    found = {}
    for field, text in pairwise(body):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(text, ast.Expr):
            found[field.target.id] = ast.literal_eval(text.value)
    return found


if __name__ == "__main__":
    print((tasks_markdown() if sys.argv[1:] == ["--tasks"] else markdown(sys.argv[1:])).rstrip("\n"))
