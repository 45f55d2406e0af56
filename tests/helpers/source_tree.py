"""What the source tree is made of, read from the source: modules, rooms, imports; and a picture of them.

`python tests/helpers/source_tree.py docs/architecture.svg` draws the rooms with their arrows; `make docs` does it.
"""

from __future__ import annotations

import ast
import sys
import textwrap
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from html import escape
from pathlib import Path

SOURCE = Path(__file__).resolve().parents[2] / "src"

# Layers from the bottom up; a module may import from its own layer and from those before it.
LAYERS = (
    (
        "errors",
        "version",
        "records",
        "files",
        "progress",
        "registry",
        "issue_codes",
        "wording",
        "machine",
        "model_files",
        "pretrained",
    ),
    ("config",),
    ("corpus",),
    ("answers",),
    ("scoring",),
    ("annotators",),
    ("compute",),
    ("training",),
    ("taggers", "llm", "convert"),
    ("models",),
    ("guidance",),
    ("report",),
    ("tracking",),
    ("runs",),
    ("predicting",),
    ("tasks",),
    ("run", "frames"),
    ("api",),
    ("spacy_component",),
)
KERNEL = LAYERS[0]  # whom everybody knows: not drawn
APART = ("taggers", "llm", "convert")  # one layer, but none knows another


@cache
def modules() -> dict[str, Path]:
    """Every module and package of ours, by its dotted name."""
    found = {}
    for path in sorted((SOURCE / "omniner").rglob("*.py")):
        name = ".".join(path.relative_to(SOURCE).with_suffix("").parts).removesuffix(".__init__")
        found[name] = path
    return found


@cache
def tree(path: Path) -> ast.Module:
    """The parsed source of a module."""
    return ast.parse(path.read_text(encoding="utf-8"))


def needed_nodes(path: Path, typing: bool = False) -> Iterator[ast.AST]:
    """The nodes of a module's source, without what stands under `if TYPE_CHECKING` unless `typing`."""
    only_types = {
        id(inner)
        for node in ast.walk(tree(path))
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        for inner in ast.walk(node)
    }
    return (node for node in ast.walk(tree(path)) if typing or id(node) not in only_types)


def imported(path: Path, typing: bool = False) -> Iterator[tuple[str, ast.alias]]:
    """What a module imports of ours, anywhere in it: the module's name and the alias.

    Args:
        path: of the importing module.
        typing: with what only types need as well.
    """
    for node in needed_nodes(path, typing):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "omniner":
            for alias in node.names:
                target = f"{node.module}.{alias.name}"
                yield (target if target in modules() else str(node.module)), alias


def room(name: str) -> str:
    """The package, or module beside the packages, that a module belongs to; empty for the package itself."""
    return name.split(".")[1] if "." in name else ""


def arrows() -> dict[str, set[str]]:
    """The rooms that each room imports from."""
    found: dict[str, set[str]] = defaultdict(set)
    for name, path in modules().items():
        for target, _ in imported(path):
            if room(name) and room(target) and room(name) != room(target):
                found[room(name)].add(room(target))
    return found


def needed() -> dict[str, set[str]]:
    """The arrows that no way over other rooms stands for."""
    direct = arrows()

    @cache
    def reach(name: str) -> set[str]:
        return set().union(*({target} | reach(target) for target in direct.get(name, ())))

    return {
        name: {target for target in targets if not any(target in reach(other) for other in targets - {target})}
        for name, targets in direct.items()
    }


def meaning(name: str) -> str:
    """What a room is for: the first sentence of its package's or module's docstring."""
    text = ast.get_docstring(tree(modules()[f"omniner.{name}"])) or ""
    return text.partition("\n")[0].rstrip(".")


def drawing() -> str:
    """The rooms from the bottom up as an SVG, with the arrows of `needed`; the kernel is left out."""
    wide, high, gap, margin = 330, 46, 30, 170
    rows = LAYERS[1:]
    width = max(len(row) for row in rows) * (wide + 30) + 2 * margin
    place: dict[str, tuple[float, float]] = {}
    for level, row in enumerate(rows):
        y = 20 + (len(rows) - 1 - level) * (high + gap)
        for at, name in enumerate(row):
            place[name] = (width / 2 + (at - (len(row) - 1) / 2) * (wide + 30) - wide / 2, y)
    height = 20 + len(rows) * (high + gap)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif">',
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0 0L8 4L0 8z" fill="#5b6b7d"/></marker></defs>',
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
    ]
    level_of = {name: level for level, row in enumerate(rows) for name in row}
    arcs, wanted = 0, needed()
    for name in sorted(place, key=lambda name: level_of[name]):
        for target in sorted(wanted.get(name, set()) & place.keys()):
            x1, y1 = place[name][0] + wide / 2, place[name][1] + high
            x2, y2 = place[target][0] + wide / 2, place[target][1]
            far = level_of[name] - level_of[target]
            if far == 1:
                bend = f"M{x1:g} {y1:g}L{x2:g} {y2:g}"
            else:  # around the rooms between, left and right in turn
                arcs += 1
                side = 1 if arcs % 2 else -1
                x1, x2 = x1 + side * wide / 2, x2 + side * wide / 2
                y1, y2 = y1 - high / 2, y2 + high / 2
                out = (max if side > 0 else min)(x1, x2) + side * (40 + 26 * min(far, 8))
                bend = f"M{x1:g} {y1:g}C{out:g} {y1:g} {out:g} {y2:g} {x2:g} {y2:g}"
            lines.append(f'<path d="{bend}" fill="none" stroke="#5b6b7d" marker-end="url(#tip)"/>')
    for name, (x, y) in place.items():
        words = textwrap.wrap(meaning(name), 62, max_lines=2, placeholder=" ...")
        lines.append(
            f'<rect x="{x:g}" y="{y:g}" width="{wide}" height="{high}" rx="6" fill="#eef3f8" stroke="#34495e"/>'
        )
        middle = f'x="{x + wide / 2:g}" text-anchor="middle"'
        lines.append(f'<text {middle} y="{y + 15:g}" font-size="14">{escape(name)}</text>')
        for number, line in enumerate(words):
            at = y + 28 + 11 * number
            lines.append(f'<text {middle} y="{at:g}" font-size="10" fill="#5b6b7d">{escape(line)}</text>')
    return "\n".join([*lines, "</svg>"]) + "\n"


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(drawing(), encoding="utf-8")
