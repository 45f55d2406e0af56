"""Define `Table`, used for pages, CSV, the tracker, Markdown and LaTeX, and build the tables of a scored run.

A `Table` has rows of values, a title and, for each column, the kind of its values. `format_cell` formats a value as in
papers (0.8531 as 85.31, a difference of shares as +1.20 points). Names from a corpus or a configuration are escaped, so
that they cannot act as markup in Markdown or LaTeX.

`build_run_tables` builds the tables that the page, the CSV files and the tracker show for a scored run. An error counts
for the category of its first gold entity, or for the predicted one if there is no gold (`redundant`), so that every
error is in one row. Each table takes one pass over the errors: 50,000 errors of 19,557 sentences take 0.4 s.
"""

from __future__ import annotations

import csv
import io
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, NamedTuple

from omniner.answers import translatable_reason
from omniner.config.groups import ErrtaConfig
from omniner.corpus.taxonomy import Taxonomy
from omniner.records import Entity, Sentence, ranked, storable
from omniner.scoring.error_types import ERROR_TYPES
from omniner.scoring.metrics import OVERLAP_SCHEMES, ErrtaError, ScoreResult, calibration_error, category_of
from omniner.scoring.suspects import find_suspected_labels
from omniner.scoring.units import IMPOSSIBLE
from omniner.wording import Wording, counted, text_width, translated

Cell = str | int | float

# Kinds of values of a column.
TEXT, COUNT, CHANGE = "text", "count", "change"  # a change is a difference of counts
FIGURE, SHARE, POINTS = "figure", "share", "points"  # shown as 0.8531, as 85.31, and as a difference of shares
PERCENT, P_VALUE = "percent", "p"

NONE = ""  # no value: a change from 0 has no percentage

MARKDOWN_ROWS = 100  # maximum rows of a table in Markdown; the CSV has all
PAGE_ROWS = 5000  # maximum rows of a table on a page: browsers could not open one with 200,000 rows
LATEX_ROWS = 40  # maximum rows of a table that fits on a printed page


class Column(NamedTuple):
    """The name of a column, and the kind of its values."""

    name: str
    kind: str


def columns(kind: str, *names: str) -> list[Column]:
    """Return translatable columns of one kind; for names given by users, make a `Column`, which is not translated."""
    return [Column(name if isinstance(name, Wording) else Wording(name), kind) for name in names]


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of text and numbers under named columns.

    Args:
        title: title in one line.
        columns: one for each cell of a row.
        rows: the values; a text in a column of numbers is shown unchanged.
        best: cells (row, column) that are bold.
        empty: text shown if there are no rows.
    """

    title: str
    columns: Sequence[Column]
    rows: list[list[Cell]]
    best: frozenset[tuple[int, int]] = frozenset()
    empty: str = Wording("None.")

    @property
    def names(self) -> list[str]:
        """The names of the columns."""
        return [column.name for column in self.columns]

    def formatted(self) -> list[list[str]]:
        """Return the rows with formatted cells."""
        kinds = [column.kind for column in self.columns]
        return [[format_cell(cell, kind) for cell, kind in zip(row, kinds, strict=True)] for row in self.rows]

    def to_json(self, language: str = "en") -> dict[str, Any]:
        """Return plain values for the scripts of the pages: the first `PAGE_ROWS` rows; the title says if some are cut.

        Columns have their names and, in addition, translated headings.
        """
        title, rows = self.title, self.rows[:PAGE_ROWS]
        if len(rows) < len(self.rows):
            title = Wording(
                "{title}; the first {most:,} of {total:,} rows, all are in the CSV file",
                title=self.title, most=len(rows), total=len(self.rows),
            )  # fmt: skip
        return {
            "title": translated(title, language),
            "columns": self.names,
            "heads": [_heading(name, language) for name in self.names],
            "kinds": [column.kind for column in self.columns],
            "rows": [[translated(cell, language) for cell in row] for row in rows],
            "best": sorted(place for place in self.best if place[0] < PAGE_ROWS),
            "empty": translated(self.empty, language),
        }

    def to_csv(self) -> str:
        """Return CSV with a header line; a lone surrogate is written as an escape, because UTF-8 cannot hold it.

        Text that looks like a formula gets an apostrophe before it, so that no spreadsheet executes it.
        """
        buffer = io.StringIO()
        writer = csv.writer(buffer, lineterminator="\n")
        writer.writerow(map(_no_formula, self.names))
        writer.writerows(map(_no_formula, row) for row in self.rows)
        return storable(buffer.getvalue())

    def to_markdown(self, most: int = MARKDOWN_ROWS) -> str:
        """Return the first `most` rows as a Markdown table, with the number of rows left out; `None.` without rows."""
        if not self.rows:
            return "None."
        lines = [[escape_markdown(name) for name in self.names], ["---"] * len(self.columns)]
        for i, row in enumerate(self.formatted()[:most]):
            cells = [escape_markdown(cell) for cell in row]
            lines.append([f"**{cell}**" if (i, j) in self.best else cell for j, cell in enumerate(cells)])
        text = "".join(f"| {' | '.join(cells)} |\n" for cells in lines)
        left = len(self.rows) - most
        return f"{text}\nand {counted(left, 'more row')}\n" if left > 0 else text

    def aligned(self) -> list[str]:
        """Return lines for a terminal: text aligned left, numbers right; a Chinese letter takes two columns."""
        rows = [self.names, *self.formatted()]
        widths = [max(map(text_width, column)) for column in zip(*rows, strict=True)]
        lines = []
        for row in rows:
            cells = []
            for cell, width, column in zip(row, widths, self.columns, strict=True):
                blanks = " " * (width - text_width(cell))
                cells.append(cell + blanks if column.kind == TEXT else blanks + cell)
            lines.append("  ".join(cells).rstrip())
        return lines

    def to_latex(self, label: str) -> str:
        """Return LaTeX for a document with the package `booktabs` and, for Chinese, `ctex`.

        A table with more rows than fit on a page is a `longtable`.
        """
        kinds = [column.kind for column in self.columns]
        alignment = "".join("l" if kind == TEXT else "r" for kind in kinds)
        head = " & ".join(escape_latex(_heading(name, "en")) for name in self.names) + r" \\"
        body = []
        for i, row in enumerate(self.formatted()):
            cells = [
                escape_latex(cell) if kind == TEXT else re.sub("^-", "$-$", cell).replace("%", r"\%")
                for cell, kind in zip(row, kinds, strict=True)
            ]
            bold = (rf"\textbf{{{cell}}}" if (i, j) in self.best else cell for j, cell in enumerate(cells))
            body.append(" & ".join(bold) + r" \\")
        caption = rf"\caption{{{escape_latex(self.title)}}}\label{{tab:{label}}}"
        if len(body) <= LATEX_ROWS:
            lines = [r"\begin{table}", r"\centering", caption, rf"\begin{{tabular}}{{{alignment}}}", r"\toprule", head]
            lines += [r"\midrule", *body, r"\bottomrule", r"\end{tabular}", r"\end{table}"]
            needs = "booktabs"
        else:
            lines = [rf"\begin{{longtable}}{{{alignment}}}", rf"{caption} \\", r"\toprule", head, r"\midrule"]
            lines += [r"\endhead", r"\bottomrule", r"\endfoot", *body, r"\end{longtable}"]
            needs = "booktabs, longtable"
        return storable("\n".join([f"% needs the packages {needs} (and ctex for Chinese)", *lines]) + "\n")


def _heading(name: str, language: str) -> str:
    """Return a column's heading: its translated name with spaces for `_`; names given by users keep their `_`."""
    ours = isinstance(name, Wording) and not name.values
    return str(translated(name, language)).replace("_", " ") if ours else str(translated(name, language))


def format_cell(cell: Cell, kind: str) -> str:
    """Return a value as papers print it; a p-value below 0.001 has three significant digits."""
    if isinstance(cell, str):
        return cell
    match kind:
        case "count":
            return f"{cell:,}"
        case "change":
            return f"{cell:+,}" if cell else "0"
        case "figure":
            return f"{cell:.4f}"
        case "share":
            return f"{100 * cell:.2f}"
        case "points":
            return f"{100 * cell:+.2f}"
        case "percent":
            return f"{cell:+.1f}%" if cell else "0.0%"
        case "p":
            return f"{cell:.3g}" if cell < 0.001 else f"{cell:.3f}"
    raise ValueError(f"{cell!r} in a column of {kind}")


def entities_text(entities: Iterable[Entity]) -> str:
    """Return entities as text: `上海/地址_城市 [3, 5)`, separated by semicolons."""
    return "; ".join(
        f"{e.text}/{e.category}" + (f" [{e.start}, {e.end})" if e.start is not None else "") for e in entities
    )


def summary_markdown(title: str, summary: Sequence[str], tables: Mapping[str, Table]) -> str:
    """Return a Markdown text with a title, a list of sentences, and the tables."""
    lines = [f"# {escape_markdown(title)}", *(f"- {escape_markdown(line)}" for line in summary)]
    return "\n".join(lines) + "\n\n" + tables_markdown(tables)


def tables_markdown(tables: Mapping[str, Table]) -> str:
    """Return the tables as Markdown, one section each; long ones are cut, with a remark."""
    sections = (f"## {escape_markdown(table.title)}\n\n{table.to_markdown()}\n" for table in tables.values())
    return storable("\n".join(sections))


_MARKDOWN = {"\\": "\\\\", "&": "&amp;", "<": "&lt;", "*": "&#42;", "`": "&#96;", "~": "&#126;", "|": "\\|"}
_LATEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "%": r"\%",
    "_": r"\_",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "`": r"\textasciigrave{}",
    "-": "{-}",  # prevents ligatures: -- in a name is not a dash
    "[": "{[}",  # otherwise it would be an argument of the `\\` before it, at the beginning of a row
    "]": "{]}",
    "*": "{*}",
}


def escape_markdown(text: str) -> str:
    """Return text on one line, escaped so that Markdown shows it unchanged."""
    escaped = "".join(_MARKDOWN.get(letter, letter) for letter in " ".join(text.split()))
    escaped = re.sub(r"(?<![^\W_])_|_(?![^\W_])", "&#95;", escaped)  # within a word it is no markup
    escaped = escaped.replace("](", "]&#40;")  # no links
    escaped = re.sub(r" (?=#+$)", r" \\", escaped)  # hash marks at the end of a heading would be removed
    # the beginning of a line must not make it a heading, a list, a quotation, a rule or the target of a link
    return re.sub(r"^(\d{0,9})([#+.)-]+(?= |$)|[>\[])", r"\1\\\2", escaped)


def _no_formula(cell: Cell) -> Cell:
    if not isinstance(cell, str) or not cell.startswith(("=", "+", "-", "@", "\t", "\r", "\n")):
        return cell
    return cell if re.fullmatch(r"[+-][\d.,]+%?", cell) else f"'{cell}"


def escape_latex(text: str) -> str:
    """Return text escaped so that LaTeX prints it unchanged; control characters and line breaks become spaces."""
    one_line = re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\s]+", " ", text)
    return "".join(_LATEX.get(letter, letter) for letter in one_line)


def build_run_tables(
    result: ScoreResult, errta: ErrtaConfig, taxonomy: Taxonomy | None, train: Sequence[Sentence]
) -> dict[str, Table]:
    """Return all tables of a result by name.

    Args:
        result: what `scoring.scorer.score_loaded` gave.
        errta: says how many examples and how many rows of frequent confusions to show.
        taxonomy: gives the English names of categories; without it they are empty.
        train: further gold sentences from which the usual labels of surfaces are counted; may be empty.
    """
    english = taxonomy.english if taxonomy else {}
    by_category = Counter((error.type, category_of(error)) for error in result.errta.errors)
    return {
        "categories": _categories(result, english),
        "primaries": _primaries(result, english),
        "errta_counts": _counts(result),
        "errta_by_category": _by(result, by_category, "category", lambda name: name),
        "errta_by_primary": _by(result, by_category, "primary", result.primary.__getitem__),
        "units": _units(result),
        "overlap": _overlap(result),
        **({"calibration": _calibration(result)} if result.calibration else {}),
        "impossible_answers": _impossible(result, errta.examples),
        "confusion_pairs": _confusion_pairs(result.errta.errors, errta.top),
        "confused_surfaces": _confused_surfaces(result.errta.errors, errta.top),
        "examples": _examples_table(result, errta.examples),
        "suspected_annotation": _suspected_labels(result, train),
        "parse_failures": _parse_failures(result),
    }


def count_confusions(errors: Iterable[ErrtaError]) -> Counter[tuple[str, str]]:
    """Count the errors in which a gold category was confused with another one, whatever the type of the error."""
    return Counter(pair for error in errors for pair in _confused(error))


def _confused(error: ErrtaError) -> set[tuple[str, str]]:
    """Return the pairs of categories that an error confuses; each pair once, even if the answer has several pieces."""
    return {
        (gold.category, predicted.category)
        for gold in error.gold
        for predicted in error.predicted
        if gold.category != predicted.category
    }


def examples_of_cells(errors: Sequence[ErrtaError], per_type: int) -> dict[str, list[ErrtaError]]:
    """Return `examples_by_type`, and additional errors so that every cell of the heat maps has an example.

    A cell is a type with a category, or a pair of confused categories. Errors in sentences that are already included
    come first, then those in sentences that fill most cells, because a page contains every sentence only once. With
    `per_type` 0 there are no examples.
    """
    chosen = examples_by_type(errors, per_type)
    if not per_type:
        return chosen
    kept = [error for found in chosen.values() for error in found]
    empty = set(chain.from_iterable(map(_cells, errors))).difference(*map(_cells, kept))
    held = {error.sentence_id for error in kept}
    fills: dict[str, set[tuple[str, ...]]] = defaultdict(set)  # by sentence
    for error in errors:
        fills[error.sentence_id] |= _cells(error) & empty
    useful = (error for error in errors if fills[error.sentence_id])
    for error in sorted(useful, key=lambda one: (one.sentence_id not in held, -len(fills[one.sentence_id]))):
        if not empty.isdisjoint(cells := _cells(error)):
            chosen[error.type].append(error)
            empty -= cells
    return chosen


def _cells(error: ErrtaError) -> set[tuple[str, ...]]:
    """Return the cells of the heat maps that count an error."""
    return {("type", error.type, category_of(error)), *_confused(error)}


def examples_by_type(errors: Iterable[ErrtaError], per_type: int) -> dict[str, list[ErrtaError]]:
    """Return at most `per_type` errors of each type: every k-th one of the errors sorted by category.

    So categories are represented in proportion to their errors, and the choice is deterministic.
    """
    by_type: dict[str, list[ErrtaError]] = defaultdict(list)
    for error in errors:
        by_type[error.type].append(error)
    chosen = {}
    for name, found in sorted(by_type.items()):
        if len(found) > per_type:
            found = sorted(found, key=category_of)
            found = [found[i * len(found) // per_type] for i in range(per_type)]
        chosen[name] = found
    return chosen


_SCORES = [
    *columns(SHARE, "precision", "recall", "f1"),
    *columns(COUNT, "support", "tp", "fp", "fn"),
]  # of a `ScoreRow`


def _categories(result: ScoreResult, english: Mapping[str, str]) -> Table:
    rows: list[list[Cell]] = [
        [name, english.get(name, ""), result.primary[name], *row] for name, row in result.metrics.categories.items()
    ]
    title = Wording("{count:category}, in per cent (click a heading to sort)", count=len(rows))
    heads = [*columns(TEXT, "category", "english", "primary"), *_SCORES]
    return Table(title, heads, rows, empty=Wording("No entities."))


def _primaries(result: ScoreResult, english: Mapping[str, str]) -> Table:
    rows: list[list[Cell]] = [
        [name, english.get(name, ""), *row.strict, *row.relaxed[:3]] for name, row in result.metrics.primaries.items()
    ]
    title = Wording(
        "{count} primaries, in per cent: the whole category must be right; relaxed F1 asks for the primary only",
        count=len(rows),
    )
    heads = [*columns(TEXT, "primary", "english"), *_SCORES]
    heads += columns(SHARE, "relaxed_precision", "relaxed_recall", "relaxed_f1")
    return Table(title, heads, rows, empty=Wording("No entities."))


def _counts(result: ScoreResult) -> Table:
    total = sum(count.errors for count in result.errta.by_type.values())
    rows: list[list[Cell]] = [
        [name, count.errors, count.errors / total if total else 0.0, count.fn, count.fp]
        for name, count in result.errta.by_type.items()
    ]
    title = Wording("Errors by type, and the false negatives (FN) and positives (FP) they account for")
    heads = [*columns(TEXT, "type"), *columns(COUNT, "count"), *columns(SHARE, "share"), *columns(COUNT, "fn", "fp")]
    return Table(title, heads, rows, empty=Wording("No errors."))


def _units(result: ScoreResult) -> Table:
    rows: list[list[Cell]] = []
    for unit, scores in result.units.items():
        interval = scores.intervals.get("micro.f1")
        bounds: list[Cell] = list(interval) if interval else [NONE, NONE]
        rows.append([Wording(unit), *scores.micro[:3], *bounds, scores.macro.f1, *scores.micro[3:]])
    title = Wording("Scores by both units; {unit} is the one of all other tables", unit=Wording(result.unit))
    heads = [*columns(TEXT, "unit"), *columns(SHARE, "precision", "recall", "f1", "f1_low", "f1_high", "macro_f1")]
    return Table(title, [*heads, *columns(COUNT, "support", "tp", "fp", "fn")], rows)


def _overlap(result: ScoreResult) -> Table:
    rows: list[list[Cell]] = [
        [scheme, Wording(OVERLAP_SCHEMES[scheme]), *row] for scheme, row in result.overlap.items()
    ]
    title = Wording("Scores of overlapping entities (SemEval-2013), by span; a partial match counts half")
    heads = [*columns(TEXT, "scheme", "meaning"), *columns(SHARE, "precision", "recall", "f1")]
    heads += columns(COUNT, "correct", "partial", "incorrect", "missed", "spurious")
    return Table(title, heads, rows, empty=Wording("Gold has no places."))


def _calibration(result: ScoreResult) -> Table:
    rows: list[list[Cell]] = [list(row) for row in result.calibration]
    title = Wording(
        "Confidence and precision of predicted entities; expected calibration error {error:.2%}",
        error=calibration_error(result.calibration),
    )
    heads = [*columns(SHARE, "score_low", "score_high"), *columns(COUNT, "entities")]
    return Table(title, [*heads, *columns(SHARE, "mean_score", "precision")], rows)


def _impossible(result: ScoreResult, most: int) -> Table:
    """Build the table of impossible answers: each surface and category once, the most frequent first within a kind."""
    found = Counter((answer.kind, answer.entity.text, answer.entity.category) for answer in result.errta.impossible)
    first: dict[tuple[str, str, str], str] = {}
    for answer in result.errta.impossible:
        first.setdefault((answer.kind, answer.entity.text, answer.entity.category), answer.sentence_id)
    rows: list[list[Cell]] = []
    for kind, meaning in IMPOSSIBLE.items():
        chosen = sorted((key for key in found if key[0] == kind), key=lambda key: (-found[key], key))[:most]
        name = Wording(kind.replace("_", " "))
        rows += [[name, key[1], key[2], found[key], Wording(meaning), first[key]] for key in chosen]
    counts = Wording.joined(", ", (
        Wording("{count:,} {kind}", count=count, kind=Wording(kind))
        for kind, count in result.errta.impossible_counts.items() if count
    ))  # fmt: skip
    title = Wording("Answers that no gold could have had: each counts as a false positive")
    heads = [*columns(TEXT, "kind", "surface", "category"), *columns(COUNT, "count")]
    heads += columns(TEXT, "meaning", "example_id")
    return Table(
        Wording("{title} ({counts})", title=title, counts=counts) if counts else title,
        heads,
        rows,
        empty=Wording("No impossible answers: all words stand in their sentences, and all categories exist."),
    )


def _by(
    result: ScoreResult, errors: Mapping[tuple[str, str], int], column: str, name_of: Callable[[str], str]
) -> Table:
    """Build the table of errors of each type, grouped by `name_of(category)`; most errors first."""
    types = list(result.errta.by_type)
    place = {name: i for i, name in enumerate(types)}
    counts: dict[str, list[int]] = defaultdict(lambda: [0] * len(types))
    for (kind, category), count in errors.items():
        counts[name_of(category)][place[kind]] += count
    rows: list[list[Cell]] = [[name, *numbers, sum(numbers)] for name, numbers in counts.items()]
    rows.sort(key=lambda row: (-int(row[-1]), str(row[0])))
    title = Wording(
        "Errors by type and {column}; an error counts for its gold category, or the predicted one where nothing was "
        "there",
        column=Wording(column),
    )
    labels = (Wording.both(name, ERROR_TYPES[name].chinese) for name in types)
    heads = [*columns(TEXT, column), *columns(COUNT, *labels, "total")]
    return Table(title, heads, rows, empty=Wording("No errors."))


def _confusion_pairs(errors: Sequence[ErrtaError], top: int) -> Table:
    surfaces: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for error in errors:
        for pair in _confused(error):
            surfaces[pair].update({gold.text for gold in error.gold if gold.category == pair[0]})
    rows: list[list[Cell]] = [
        [gold, predicted, count, ranked(surfaces[gold, predicted])[0][0]]
        for (gold, predicted), count in ranked(count_confusions(errors), top)
    ]
    heads = [*columns(TEXT, "gold", "predicted"), *columns(COUNT, "count"), *columns(TEXT, "example")]
    title = Wording("Most frequent confused pairs")
    return Table(title, heads, rows, empty=Wording("No entity got another category."))


def _confused_surfaces(errors: Iterable[ErrtaError], top: int) -> Table:
    counts = Counter(
        ((gold or predicted)[0].text, kind, _joined_categories(gold), _joined_categories(predicted))
        for kind, _, gold, predicted in errors
    )
    none = Wording("none")
    rows: list[list[Cell]] = []
    for (surface, kind, gold, predicted), count in ranked(counts, top):
        what = Wording.both(
            "{type}: {gold} → {predicted}", "{type}：{gold} → {predicted}",
            type=Wording.both(kind, ERROR_TYPES[kind].chinese), gold=gold or none, predicted=predicted or none,
        )  # fmt: skip
        rows.append([surface, what, count])
    heads = [*columns(TEXT, "surface", "what"), *columns(COUNT, "count")]
    return Table(Wording("Surfaces most often wrong"), heads, rows, empty=Wording("No errors."))


def _joined_categories(side: Sequence[Entity]) -> str:
    # fast path: nearly every side has one entity, and a run has tens of thousands of errors
    return side[0].category if len(side) == 1 else " + ".join([entity.category for entity in side])


def _examples_table(result: ScoreResult, per_type: int) -> Table:
    chosen = examples_by_type(result.errta.errors, per_type)
    rows: list[list[Cell]] = [
        [name, e.sentence_id, result.sentences[e.sentence_id].text, entities_text(e.gold), entities_text(e.predicted)]
        for name in result.errta.by_type
        for e in chosen.get(name, [])
    ]
    heads = columns(TEXT, "type", "id", "sentence", "gold", "predicted")
    return Table(Wording("Examples of errors of each type"), heads, rows, empty=Wording("No errors."))


def _suspected_labels(result: ScoreResult, train: Sequence[Sentence]) -> Table:
    """Build the table of gold labels that differ from the usual one of their surface."""
    rows: list[list[Cell]] = [list(suspect) for suspect in find_suspected_labels(result, train)]
    heads = [*columns(TEXT, "surface", "gold", "usual"), *columns(SHARE, "usual_share")]
    heads += [*columns(COUNT, "seen", "count", "model_says_usual"), *columns(TEXT, "example_id")]
    title = Wording(
        "Gold labels other than the usual one of their surface. Where the model gives the usual label too, look at the "
        "gold first."
    )
    return Table(title, heads, rows, empty=Wording("No surface has one usual label and another one here."))


def _parse_failures(result: ScoreResult) -> Table:
    rows: list[list[Cell]] = [
        [one.sentence_id, Wording(one.status), translatable_reason(one.reason), one.raw]
        for one in result.parse.failures
    ]
    title = Wording(
        "Model texts that were not read as they stand; failed ones count as empty answers unless the signature says "
        "otherwise"
    )
    heads = columns(TEXT, "id", "status", "reason", "raw")
    return Table(title, heads, rows, empty=Wording("Every answer was read as it stands."))
