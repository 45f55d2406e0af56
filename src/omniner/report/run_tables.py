"""The tables of a scored run, which its report, its CSV files and the tracker all show.

An error counts for its first gold entity's category, or for the predicted one where nothing was there (`redundant`), so
every error is in exactly one row. Each table is one pass over the errors: 50,000 errors of 19,557 sentences take 0.4 s.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence

from omniner.config.groups import ErrtaConfig
from omniner.corpus.taxonomy import Taxonomy
from omniner.records import Entity, Prediction, Sentence
from omniner.report.tables import COUNT, RATE, TEXT, Cell, Table, columns, entities_text
from omniner.scoring.results import ErrtaError, ScoreResult, category_of

# A label is suspected where its surface has been labelled otherwise at least this often and this regularly.
SEEN = 5
MAJORITY = 0.8


def build_run_tables(
    result: ScoreResult, errta: ErrtaConfig, taxonomy: Taxonomy | None, train: Sequence[Sentence]
) -> dict[str, Table]:
    """All tables of a result.

    Args:
        result: what `scoring.score` gave.
        errta: how many examples and how many rows of frequent confusions to keep.
        taxonomy: English names beside the categories; `None` leaves them blank.
        train: further gold sentences in which to look for the usual label of a surface; may be empty.
    """
    english = taxonomy.english if taxonomy else {}
    return {
        "categories": _categories(result, english),
        "primaries": _primaries(result, english),
        "errta_counts": _counts(result),
        "errta_by_category": _by(result, "category", lambda name: name),
        "errta_by_primary": _by(result, "primary", result.primary.__getitem__),
        "confusion_pairs": _confusion_pairs(result.errta.errors, errta.top),
        "confused_surfaces": _confused_surfaces(result.errta.errors, errta.top),
        "examples": _examples(result, errta.examples),
        "suspected_annotation": find_suspected_labels(result, train),
        "parse_failures": _parse_failures(result),
    }


def count_confusions(errors: Iterable[ErrtaError]) -> Counter[tuple[str, str]]:
    """How often a gold category was answered with another one, whatever the type of the error."""
    return Counter(
        (gold.category, predicted.category)
        for error in errors
        for gold in error.gold
        for predicted in error.predicted
        if gold.category != predicted.category
    )


def examples_by_type(errors: Iterable[ErrtaError], per_type: int) -> dict[str, list[ErrtaError]]:
    """At most `per_type` errors of each type: every k-th one with the categories in order.

    So categories are present in proportion to their errors, and the same errors always give the same choice.
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


_SCORES = [*columns(RATE, "precision", "recall", "f1"), *columns(COUNT, "support", "tp", "fp", "fn")]  # of a `ScoreRow`


def _categories(result: ScoreResult, english: Mapping[str, str]) -> Table:
    rows: list[list[Cell]] = [
        [name, english.get(name, ""), result.primary[name], *row] for name, row in result.metrics.categories.items()
    ]
    title = f"{len(rows)} categories (click a heading to sort)"
    return Table(title, [*columns(TEXT, "category", "english", "primary"), *_SCORES], rows, empty="No entities.")


def _primaries(result: ScoreResult, english: Mapping[str, str]) -> Table:
    rows: list[list[Cell]] = [
        [name, english.get(name, ""), *row.strict, *row.relaxed[:3]] for name, row in result.metrics.primaries.items()
    ]
    title = f"{len(rows)} primaries: the whole category must be right; relaxed F1 asks for the primary only"
    heads = [*columns(TEXT, "primary", "english"), *_SCORES]
    heads += columns(RATE, "relaxed_precision", "relaxed_recall", "relaxed_f1")
    return Table(title, heads, rows, empty="No entities.")


def _counts(result: ScoreResult) -> Table:
    total = sum(count.errors for count in result.errta.by_type.values())
    rows: list[list[Cell]] = [
        [name, count.errors, count.errors / total if total else 0.0, count.fn, count.fp]
        for name, count in result.errta.by_type.items()
    ]
    title = "Errors by type, and the false negatives (FN) and positives (FP) they account for"
    heads = [*columns(TEXT, "type"), *columns(COUNT, "count"), *columns(RATE, "share"), *columns(COUNT, "fn", "fp")]
    return Table(title, heads, rows, empty="No errors.")


def _by(result: ScoreResult, column: str, name_of: Callable[[str], str]) -> Table:
    """Errors of each type by what `name_of` makes of the category; most errors first."""
    types = list(result.errta.by_type)
    place = {name: i for i, name in enumerate(types)}
    counts: dict[str, list[int]] = defaultdict(lambda: [0] * len(types))
    for error in result.errta.errors:
        counts[name_of(category_of(error))][place[error.type]] += 1
    rows: list[list[Cell]] = [[name, *numbers, sum(numbers)] for name, numbers in counts.items()]
    rows.sort(key=lambda row: (-int(row[-1]), str(row[0])))
    counted = "an error counts for its gold category, or the predicted one where nothing was there"
    heads = [*columns(TEXT, column), *columns(COUNT, *types, "total")]
    return Table(f"Errors by type and {column}; {counted}", heads, rows, empty="No errors.")


def _confusion_pairs(errors: Sequence[ErrtaError], top: int) -> Table:
    surfaces: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for error in errors:
        for gold in error.gold:
            for predicted in error.predicted:
                if gold.category != predicted.category:
                    surfaces[gold.category, predicted.category][gold.text] += 1
    rows: list[list[Cell]] = [
        [gold, predicted, count, _commonest(surfaces[gold, predicted])[0]]
        for (gold, predicted), count in _most(count_confusions(errors), top)
    ]
    heads = [*columns(TEXT, "gold", "predicted"), *columns(COUNT, "count"), *columns(TEXT, "example")]
    return Table("Most frequent confused pairs", heads, rows, empty="No entity got another category.")


def _confused_surfaces(errors: Iterable[ErrtaError], top: int) -> Table:
    counts: Counter[tuple[str, str]] = Counter()
    for error in errors:
        gold, predicted = (" + ".join(e.category for e in side) for side in (error.gold, error.predicted))
        what = f"{error.type}: {gold or 'none'} → {predicted or 'none'}"
        counts[(error.gold or error.predicted)[0].text, what] += 1
    rows: list[list[Cell]] = [[surface, what, count] for (surface, what), count in _most(counts, top)]
    heads = [*columns(TEXT, "surface", "what"), *columns(COUNT, "count")]
    return Table("Surfaces most often wrong", heads, rows, empty="No errors.")


def _most(counts: Counter[tuple[str, str]], top: int) -> list[tuple[tuple[str, str], int]]:
    """The largest counts; equal ones in the order of their names, whatever order they were met in."""
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:top]


def _commonest(counts: Counter[str]) -> tuple[str, int]:
    return min(counts.items(), key=lambda item: (-item[1], item[0]))


def _examples(result: ScoreResult, per_type: int) -> Table:
    chosen = examples_by_type(result.errta.errors, per_type)
    rows: list[list[Cell]] = [
        [name, e.sentence_id, result.sentences[e.sentence_id].text, entities_text(e.gold), entities_text(e.predicted)]
        for name in result.errta.by_type
        for e in chosen.get(name, [])
    ]
    heads = columns(TEXT, "type", "id", "sentence", "gold", "predicted")
    return Table("Examples of errors of each type", heads, rows, empty="No errors.")


def find_suspected_labels(result: ScoreResult, train: Sequence[Sentence]) -> Table:
    """Gold labels other than the usual one of their surface, and how often the model gives the usual one."""
    labels: dict[str, Counter[str]] = defaultdict(Counter)
    for sentences in (train, result.sentences.values()):
        for sentence in sentences:
            for entity in sentence.entities:
                labels[entity.text][entity.category] += 1
    usual = {}
    for surface, counts in labels.items():
        category, count = _commonest(counts)
        if len(counts) > 1 and counts.total() >= SEEN and count >= MAJORITY * counts.total():
            usual[surface] = category
    places: dict[tuple[str, str], list[tuple[str, bool]]] = defaultdict(list)
    for sentence in result.sentences.values():
        for entity in sentence.entities:
            majority = usual.get(entity.text)
            if majority is not None and entity.category != majority:
                agrees = _says(result.predictions.get(sentence.id), entity, majority)
                places[entity.text, entity.category].append((sentence.id, agrees))
    rows: list[list[Cell]] = []
    for (surface, category), found in places.items():
        majority, seen = usual[surface], labels[surface]
        agreeing = [place for place, agrees in found if agrees]
        share = seen[majority] / seen.total()
        example = (agreeing or [found[0][0]])[0]
        rows.append([surface, category, majority, share, seen.total(), len(found), len(agreeing), example])
    rows.sort(key=lambda row: (-int(row[6]), -float(row[3]), str(row[0]), str(row[1])))
    heads = [*columns(TEXT, "surface", "gold", "usual"), *columns(RATE, "usual_share")]
    heads += [*columns(COUNT, "seen", "count", "model_says_usual"), *columns(TEXT, "example_id")]
    title = (
        "Gold labels other than the usual one of their surface. Where the model gives the usual label too, look at the "
        "gold first."
    )
    return Table(title, heads, rows, empty="No surface has one usual label and another one here.")


def _says(prediction: Prediction | None, gold: Entity, category: str) -> bool:
    """Whether the model gave `gold`'s surface that category, at its place where both places are known."""
    return prediction is not None and any(
        e.category == category and e.text == gold.text and (None in (e.start, gold.start) or e.start == gold.start)
        for e in prediction.entities
    )


def _parse_failures(result: ScoreResult) -> Table:
    rows: list[list[Cell]] = [[f.sentence_id, f.status, f.reason, f.raw] for f in result.parse.failures]
    title = (
        "Model texts that were not read as they stand; failed ones count as empty answers unless the signature says "
        "otherwise"
    )
    heads = columns(TEXT, "id", "status", "reason", "raw")
    return Table(title, heads, rows, empty="Every answer was read as it stands.")
