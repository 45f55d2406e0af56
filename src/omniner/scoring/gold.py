"""Find the gold of a predictions file, and match each prediction with its sentence.

`generated_predictions.jsonl` has a label with each sample: `attach_gold` adds the texts of a `test.json`, or the
sentences of a corpus file. All other predictions take their gold from elsewhere (`read_gold`). They are matched with
its sentences by id, or else by text, equal texts in order (`gold_ids`).
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from omniner import records
from omniner.config.groups import DataConfig
from omniner.corpus.align import match_texts
from omniner.corpus.formats.fields import IssueLog, read_lines
from omniner.corpus.sources import read_sentences
from omniner.errors import UserError
from omniner.records import Issue, Sentence
from omniner.wording import counted

# Under these keys of `Sentence.meta` the official profile finds the original content of the file.
LABEL, LABEL_PARSE = "label", "label_parse"  # the text; ok | repaired | failed | `REPLACED`
REPLACED = "replaced"  # gold differs from the label
LABEL_ERRTA, PREDICT_ERRTA = "label_errta", "predict_errta"  # if the ERRTA reader sees another text
BOM = "bom"  # the line begins with a byte order mark, which makes the evaluation script lose the line

GOLD_PREFIX = "test"  # prefix of ids for gold sentences that have none


@dataclass
class GoldFile:
    """A corpus file that several predictions are scored against; it is read once, on first use.

    Attributes:
        path: of the file.
        data: the config group that applies to it.
        prefix: of ids of sentences that have none; None = the file's name.
    """

    path: Path
    data: DataConfig | None
    prefix: str | None = GOLD_PREFIX

    @cached_property
    def content(self) -> tuple[list[Sentence], list[Issue]]:
        """The sentences, which must not be modified, and the issues met."""
        return read_sentences(self.path, self.data, self.prefix)


Gold = Path | GoldFile | Sequence[Sentence]  # a file, or its sentences


def attach_gold(
    samples: list[Sentence], path: Path, gold: Gold | None, lines: int, log: IssueLog, data: DataConfig | None
) -> list[Sentence]:
    """Add the texts (and, from a corpus file, entities, offsets and posts) of gold sentences to their samples.

    Args:
        samples: the readable ones of `generated_predictions.jsonl`, named by their lines.
        path: that file.
        gold: a `test.json`, a corpus file or its sentences; None = a `test.json` beside the file, if it fits.
        lines: number of lines of the file.
        log: gets an issue for gold that is not used, and for a different order.
        data: the config group that applies to a corpus file.

    Returns:
        The samples that have a gold sentence, and labelled gold sentences that no sample is about.

    Raises:
        UserError: gold has other sentences.
    """
    found = _find_sample_gold(path, gold, lines, log, data)
    return samples if found is None else _match_samples(samples, found, path, lines, log)


@dataclass(frozen=True, slots=True)
class _SampleGold:
    """What is known of the samples of `generated_predictions.jsonl` from another source.

    Attributes:
        source: the file, or the name that messages use for sentences without a file.
        sentences: in their order.
        labelled: whether their entities are gold; a `test.json` has texts only.
    """

    source: Path
    sentences: list[Sentence]
    labelled: bool


def _find_sample_gold(
    path: Path, gold: Gold | None, lines: int, log: IssueLog, data: DataConfig | None
) -> _SampleGold | None:
    """Read `gold`, or a `test.json` beside the file; return None if there is neither or it is not used."""
    beside = path.with_name("test.json")
    if gold is None and not beside.is_file():
        return None
    source = _gold_path(gold, beside)
    texts = _read_official_test(source) if gold is None or isinstance(gold, Path | GoldFile) else None
    if gold is not None and texts is None:
        return _SampleGold(source, _sentences_of(gold, log, data), labelled=True)
    known = [Sentence("", text) for text in texts or ()]
    if gold is None and len(known) != lines:
        found = f"{source.name}: {counted(len(known), 'sentence')}, but {path.name} has {counted(lines, 'line')}"
        log.add("test-json", f"{found}; not used (the official ERRTA script stops here)")
        return None
    return _SampleGold(source, known, labelled=False)


def _match_samples(
    samples: Sequence[Sentence], gold: _SampleGold, path: Path, lines: int, log: IssueLog
) -> list[Sentence]:
    numbers = [int(sample.id.removeprefix("line-")) - 1 for sample in samples]
    asked = [str(sample.meta.get("prompt") or "") for sample in samples]
    texts = [sentence.text for sentence in gold.sentences]
    others: list[Sentence] = []
    places: Sequence[int | None]
    if len(texts) == lines:
        places = in_order = _in_gold_order(asked, numbers, texts, gold.source, log)
        if gold.labelled:
            _check_labels_fit(samples, [texts[place] for place in in_order], gold.source)
    else:
        places = _by_prompts(asked, texts, path, gold.source, lines, log)
        met = set(places)
        unmet = [(n, one) for n, one in enumerate(gold.sentences, 1) if gold.labelled and n - 1 not in met]
        others = [replace(one, id=f"gold-{n}") for n, one in unmet]
    known = zip(samples, places, strict=True)
    return [*(_with_gold(one, gold.sentences[n], gold.labelled) for one, n in known if n is not None), *others]


def _with_gold(sample: Sentence, known: Sentence, labelled: bool) -> Sentence:
    """Return the sample with the text and post of its gold sentence, and its entities if that is labelled."""
    sample = replace(sample, text=known.text, post_id=known.post_id)
    if not labelled:
        return sample
    return replace(sample, entities=known.entities, meta=sample.meta | {LABEL_PARSE: REPLACED})


def _by_prompts(
    asked: Sequence[str], texts: Sequence[str], path: Path, source: Path, lines: int, log: IssueLog
) -> list[int | None]:
    """Find the position in gold of each sample by the sentence that its prompt quotes, if the counts differ.

    Raises:
        UserError: no prompt quotes a sentence of gold.
    """
    distinct = set(texts)
    found = match_texts([_quoted_sentence(prompt, distinct) for prompt in asked], texts)
    matched = sum(place is not None for place in found)
    counts = f"{counted(len(texts), 'sentence')}, but {path.name} has {counted(lines, 'line')}"
    if not matched:
        fix = "Name the gold of these predictions, or none to use the labels in the file."
        raise UserError(source, f"{counts}, and no prompt in it quotes one of the sentences", fix)
    log.add("matched-by-text", f"{source.name}: {counts}; {matched:,} matched by the texts in the prompts")
    return found


def _in_gold_order(
    asked: Sequence[str], numbers: Sequence[int], texts: Sequence[str], source: Path, log: IssueLog
) -> Sequence[int]:
    """Find the position in gold of each sample: that of its line, unless the prompts have another order."""
    here = [texts[number] in prompt for number, prompt in zip(numbers, asked, strict=True)]
    if all(here):
        return numbers
    distinct = set(texts)
    found = match_texts([_quoted_sentence(prompt, distinct) for prompt in asked], texts)
    if all(place is None or place == number for place, number in zip(found, numbers, strict=True)):
        return numbers  # prompts that do not quote their sentence do not show the order
    places = [place for place in found if place is not None]
    if len(places) < len(found):
        line = here.index(False) + 1
        message = f"line {line} of the predictions asks about another sentence than line {line} of gold"
        raise UserError(source, message, "Name the gold of these predictions.")
    log.add("other-order", f"{source.name} has the sentences in another order; matched by their texts")
    return places


def _check_labels_fit(samples: Sequence[Sentence], texts: Sequence[str], source: Path) -> None:
    """Reject gold in another order if prompts do not show the order: most labels then name text not in their sentence.

    Only surfaces are checked, because gold may be a corrected version or have other categories.
    """
    # gold records without texts do not show the order
    labelled = [(sample, text) for sample, text in zip(samples, texts, strict=True) if sample.entities and text]
    strange = [
        sample.id.replace("-", " ")
        for sample, text in labelled
        if any(entity.text not in text for entity in sample.entities)
    ]
    if len(strange) > len(labelled) / 2:
        found = (
            f"{len(strange)} of {counted(len(labelled), 'label')} of the predictions name entities that the sentence "
        )
        found += f"in their place does not hold, first in {strange[0]}"
        fix = "Put gold in the order of the predictions, give these a prompt that quotes the sentence, or drop gold=."
        raise UserError(source, found, fix)


def _read_official_test(path: Path) -> list[str] | None:
    """Return the inputs of an official `test.json`; `None` for any other file."""
    try:
        content = json.loads("\n".join(read_lines(path, IssueLog(path))).removeprefix("\ufeff"))
    except (ValueError, RecursionError):
        return None
    if not isinstance(content, list) or not all(isinstance(item, dict) and "input" in item for item in content):
        return None
    return [str(item["input"]) for item in content]


def read_gold(path: Path, gold: Gold | None, log: IssueLog, data: DataConfig | None) -> list[Sentence]:
    """Read the gold of predictions that have none: `gold`, or `gold.jsonl` beside their file.

    Raises:
        UserError: there is neither, or no sentence of it is labelled.
    """
    source = _gold_path(gold, path.with_name("gold.jsonl"))
    if gold is None and not source.is_file():
        fix = "Set gold=<file> to the sentences with their gold entities."
        raise UserError(path, "the file holds no gold and no gold.jsonl stands beside it", fix)
    sentences = _sentences_of(source if gold is None else gold, log, data)
    check_labelled(sentences, source)
    return sentences


def _gold_path(gold: Gold | None, beside: Path) -> Path:
    """Return the file of gold, or the name that messages use for sentences without a file."""
    if isinstance(gold, GoldFile):
        return gold.path
    return beside if gold is None else gold if isinstance(gold, Path) else Path("gold")


def _sentences_of(gold: Gold, log: IssueLog, data: DataConfig | None) -> list[Sentence]:
    if isinstance(gold, Path):
        gold = GoldFile(gold, data)
    elif not isinstance(gold, GoldFile):
        return list(gold)
    sentences, issues = gold.content
    log.items += issues
    return sentences


def check_labelled(gold: Sequence[Sentence], source: str | Path) -> None:
    """Raise a `UserError` that names the source if none of these sentences is labelled."""
    if all(map(records.is_unlabeled, gold)):
        raise UserError(source, "no sentence has labels", "Name the file with the gold entities.")


def gold_ids(given: Sequence[tuple[str, str]], gold: Sequence[Sentence], path: Path, log: IssueLog) -> Sequence[str]:
    """Find the gold sentence of each prediction.

    Ids are used unless they belong to other texts; then texts are used, equal ones in order. Predictions with neither
    id nor text are matched in order if there are as many as gold sentences.

    Args:
        given: id and sentence (or prompt) of each prediction; either may be empty.
        gold: the sentences.
        path: the predictions.
        log: gets an issue if texts were used.

    Returns:
        Ids of gold. If ids were used, unknown ids stay unchanged; if texts were used, predictions without a gold
        sentence get ids that gold does not have.

    Raises:
        UserError: nothing matches.
    """
    known = {sentence.id: sentence.text for sentence in gold}
    named = [(name, asked) for name, asked in given if name in known]
    other = [name for name, asked in named if asked and known[name] not in asked]
    if not given or (named and not other):
        return [name for name, _ in given]
    texts = [sentence.text for sentence in gold]
    distinct = set(texts)
    found = match_texts([_quoted_sentence(asked, distinct) for _, asked in given], texts)
    if any(place is not None for place in found):
        log.add("matched-by-text", f"{path.name} and its gold have other ids, or another order; matched by their texts")
        return [
            f"line-{number} (no gold)" if place is None else gold[place].id for number, place in enumerate(found, 1)
        ]
    if not named and len(given) == len(gold) and not any(name or asked for name, asked in given):
        return [sentence.id for sentence in gold]
    message = f"no id is one of the gold sentences ({given[0][0]!r} here, {gold[0].id!r} there), and no text"
    if other:
        message = f"{other[0]!r} is another sentence here than in gold, and no text is one of gold's"
    raise UserError(path, message, "Name the gold of these predictions, or give both files the same ids or texts.")


def _quoted_sentence(asked: str, known: Collection[str]) -> str:
    """Return the gold text that a prompt quotes: the whole prompt, one of its lines, or the rest of a line after a
    colon.
    """
    if asked in known:
        return asked
    for line in reversed(asked.splitlines()):
        for mark in ("：", ":"):
            rest = line
            while rest:
                if rest in known or rest.strip() in known:
                    return rest if rest in known else rest.strip()
                rest = rest.partition(mark)[2]
    return asked
