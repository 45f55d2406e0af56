"""The report of one run: a single HTML file that needs no network, no server and no Chinese font.

`html` puts the scores, the tables of `tables.build`, the charts and a browser of examples into the template
`report.html` (with `report.css`, `page.js`, `charts.js` and `report.js`); `page` makes one safe file of it. The page
weighs about 1 MB, half of it the Chinese letters, and takes about 1 s to write.
"""

from __future__ import annotations

import html as markup
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from omniner.config.groups import ErrtaConfig
from omniner.registry import ERROR_TYPES
from omniner.report import page
from omniner.report.figures import errors_by_primary
from omniner.report.run_tables import count_confusions, examples_by_type
from omniner.report.tables import Table
from omniner.scoring.results import ScoreResult

Curve = Sequence[tuple[int, float]]  # (step, value)

# Tables that the page shows as they are.
_SHOWN = (
    "categories",
    "primaries",
    "errta_by_category",
    "confusion_pairs",
    "confused_surfaces",
    "suspected_annotation",
    "parse_failures",
)
_SECTIONS = {
    "scores": "Scores",
    "types": "Error types",
    "categories": "Categories",
    "heat": "By primary",
    "confusion": "Confusions",
    "examples": "Examples",
    "annotation": "Annotation",
    "unread": "Unreadable",
    "issues": "Issues",
    "curves": "Learning curves",
    "config": "Configuration",
}
_CURVES = (
    '<section id="curves"><h2>Learning curves</h2><div class="two">'
    '<figure id="curves-loss"></figure><figure id="curves-scores"></figure></div></section>'
)


@dataclass(frozen=True)
class RunFacts:
    """What a report says about its run beside the scores."""

    name: str
    created: str  # time, as people read it
    details: Mapping[str, str]  # shown in this order: model, data, git state, ...
    config: str  # YAML; may be empty
    issues: Mapping[str, int]  # code -> count, of reading the data as well as of scoring


def render_run_page(
    result: ScoreResult,
    tables: Mapping[str, Table],
    facts: RunFacts,
    curves: Mapping[str, Curve],
    errta: ErrtaConfig,
) -> str:
    """The page.

    Args:
        result: what `scoring.score` gave.
        tables: what `tables.build` made of it.
        facts: what else to say about the run.
        curves: values over steps by metric name; may be empty.
        errta: how many examples per type the page holds.
    """
    curves = {name: values for name, values in sorted(curves.items()) if values}
    parts = {
        "name": markup.escape(facts.name),
        "created": markup.escape(facts.created),
        "kind": "report",
        "nav": page.nav({place: title for place, title in _SECTIONS.items() if curves or place != "curves"}),
        "cards": _cards(result),
        "signature": markup.escape(result.signature),
        "identity": _identity(result),
        "details": page.details(facts.details),
        "curves": _CURVES if curves else "",
        "config": f"<pre>{markup.escape(facts.config)}</pre>" if facts.config else '<p class="none">Not recorded.</p>',
    }
    scripts = {"js": "".join(map(page.asset, ("page.js", "charts.js", "report.js")))}
    libraries = {"plotly": page.plotly()} if curves else {}
    return page.render_page("report.html", parts, _data(result, tables, facts, curves, errta), scripts, libraries)


def _cards(result: ScoreResult) -> str:
    """The key numbers with their intervals."""
    metrics, parse = result.metrics, result.parse
    errors = sum(count.errors for count in result.errta.by_type.values())
    cards = [
        ("Micro F1", f"{metrics.micro.f1:.4f}", _interval(result, "micro.f1") or f"unit: {metrics.unit}"),
        ("Precision", f"{metrics.micro.precision:.4f}", _interval(result, "micro.precision")),
        ("Recall", f"{metrics.micro.recall:.4f}", _interval(result, "micro.recall")),
        ("Macro F1", f"{metrics.macro.f1:.4f}", _interval(result, "macro.f1")),
        ("Relaxed F1", f"{metrics.relaxed.f1:.4f}", "micro, primary category only"),
        ("Entities in gold", f"{metrics.micro.support:,}", f"{metrics.micro.tp:,} found"),
        ("Errors", f"{errors:,}", f"in {result.errta.with_errors:,} of {result.errta.read:,} sentences"),
        ("Unreadable answers", f"{parse.failed:,}", f"{parse.repaired:,} repaired, of {parse.sentences:,}"),
    ]
    return page.cards(cards)


def _interval(result: ScoreResult, name: str) -> str:
    found = result.metrics.intervals.get(name)
    return f"{found.low:.4f} – {found.high:.4f}" if found else ""


def _identity(result: ScoreResult) -> str:
    """Whether the sorted errors account for every false negative and positive."""
    errta, metrics = result.errta, result.metrics
    units = f"{errta.fn:,} false negatives and {errta.fp:,} false positives"
    if not errta.identity_ok:
        return f'<p class="notice">The {units} do not add up to the sorted errors: please report this.</p>'
    text = (
        f"Identity checked: the units of the sorted errors add up to {units} (ERRTA {errta.mode}, unit {errta.unit})."
    )
    if metrics.resamples:
        text += f" Ranges are {metrics.confidence:.0%} confidence intervals from {metrics.resamples:,} resamples"
        text += f" over {metrics.resampled}."
    for count, what in (
        (len(errta.crashes), "sentences on which the official scripts stop were left out of the error counts"),
        (errta.greedy_groups, "groups of overlapping entities were too large for the exact matching"),
    ):
        text += f" {count:,} {what}." if count else ""
    return f'<p class="fact">{text}</p>'


def _data(
    result: ScoreResult,
    tables: Mapping[str, Table],
    facts: RunFacts,
    curves: Mapping[str, Curve],
    errta: ErrtaConfig,
) -> dict[str, Any]:
    """What the script of the page works on."""
    primaries, by_primary = errors_by_primary(result)
    sentences, examples = _examples(result, errta.examples)
    errors = len(result.errta.errors)
    kept = ""
    if len(examples) < errors:
        kept = f"The page holds at most {errta.examples:,} of each type of all {errors:,} errors; errta.examples sets"
        kept += " how many."
    if any(len(entity) == 2 for _, _, gold, said in sentences for entity in (*gold, *said)):
        kept += " A surface without offsets is marked where it first stands."
    return {
        "mode": result.mode,
        "totals": {"errors": errors, "confusions": count_confusions(result.errta.errors).total()},
        "types": [
            {"name": name, "count": n, "share": share, "fn": fn, "fp": fp}
            | {"colour": ERROR_TYPES[str(name)].colour, "meaning": ERROR_TYPES[str(name)].meaning}
            for name, n, share, fn, fp in tables["errta_counts"].rows
        ],
        "primary": dict(sorted(result.primary.items())),
        "tables": {name: tables[name].to_json() for name in _SHOWN},
        # the sentences of the suspected labels, which cannot be judged without them
        "suspects": [result.sentences[str(row[-1])].text for row in tables["suspected_annotation"].rows],
        "heat": {"names": primaries, "counts": by_primary.tolist()},
        "confusion": _confusion(result),
        "sentences": sentences,
        "examples": examples,
        "kept": kept,
        "issues": [[code, count] for code, count in sorted(facts.issues.items(), key=lambda item: (-item[1], item[0]))],
        "curves": {
            name: [[step, value if math.isfinite(value) else None] for step, value in values]
            for name, values in curves.items()
        },
    }


def _confusion(result: ScoreResult) -> dict[str, Any]:
    """Categories, the most confused first, and `[gold, predicted, count]` by their places."""
    counts = count_confusions(result.errta.errors)
    involved: Counter[str] = Counter()
    for pair, count in counts.items():
        involved.update(dict.fromkeys(pair, count))
    names = sorted(involved, key=lambda name: (-involved[name], name))
    place = {name: number for number, name in enumerate(names)}
    pairs = sorted([place[gold], place[predicted], count] for (gold, predicted), count in counts.items())
    return {"names": names, "pairs": pairs}


def _examples(result: ScoreResult, per_type: int) -> tuple[list[Any], list[Any]]:
    """Sentences as `[id, text, gold, predicted]`, each once, and examples as `[type, sentence, gold, predicted]`.

    Types and sentences are places in their lists; gold and predicted of an example are places in the sentence's
    lists, so that the page marks the entities of this error among all others.
    """
    chosen = examples_by_type(result.errta.errors, per_type)
    place: dict[str, int] = {}
    sentences: list[Any] = []
    examples: list[Any] = []
    for number, name in enumerate(result.errta.by_type):
        for error in chosen.get(name, []):
            if error.sentence_id not in place:
                place[error.sentence_id] = len(sentences)
                sentences.append(_sentence(result, error.sentence_id))
            _, _, gold, predicted = sentences[place[error.sentence_id]]
            examples.append(
                [
                    number,
                    place[error.sentence_id],
                    page.entity_places(error.gold, gold),
                    page.entity_places(error.predicted, predicted),
                ]
            )
    return sentences, examples


def _sentence(result: ScoreResult, name: str) -> list[Any]:
    sentence, prediction = result.sentences[name], result.predictions.get(name)
    said = prediction.entities if prediction else []
    return [
        name,
        sentence.text,
        [page.entity_values(e) for e in sentence.entities],
        [page.entity_values(e) for e in said],
    ]
