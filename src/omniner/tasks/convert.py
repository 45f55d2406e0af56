"""`task=convert`: from one form to another; nothing is learnt.

- `to=llama`: a Baichuan2 or InternLM2.5 checkpoint folder (`input`) to the Llama layout, which needs no code of theirs.
- `to=merged`: a run's adapters (`checkpoint`) merged into plain weights that any server loads.
- `to=jsonl|conll|alpaca`: a corpus file (`input`), or every split of `data` where no input is named.
- `to=generated`: a run's predictions (`input`) as LLaMA-Factory writes them, for the scripts that read that.

Whatever is written is written whole or not at all; what the target cannot hold is an issue.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from omniner.corpus import sources, taxonomy
from omniner.corpus.formats import alpaca, conll, jsonl
from omniner.encoding import prompts
from omniner.encoding.answers import write_answer
from omniner.errors import UserError
from omniner.files import make_folder
from omniner.records import Issue, Sentence
from omniner.tasks.context import Context, publish_corpus, publish_issues

log = logging.getLogger("omniner")

_SUFFIXES = {"jsonl": ".jsonl", "conll": ".txt", "alpaca": ".json"}


def run(context: Context) -> None:
    """Do the conversion that the configuration asks for."""
    config = context.config
    target, output = config.to, Path(config.output or "")
    if target == "auto":
        target = _guess(config.input)
    context.run.tags({"convert.to": target, "convert.output": str(output.resolve())})
    if target == "llama":
        from omniner.models.conversion import convert

        convert(Path(config.input or ""), output)
    elif target == "merged":
        _merge(context, output)
    elif target == "generated":
        _generated(context, output)
    else:
        _corpus(context, target, output)
    print(f"written: {output}")


def _guess(given: str | None) -> str:
    """What a checkpoint folder becomes; a corpus file could become several things."""
    if given and (Path(given) / "config.json").is_file():
        return "llama"
    raise UserError("to", "auto, but what to convert is no checkpoint folder", "Say to=jsonl, conll, alpaca or merged.")


def _merge(context: Context, output: Path) -> None:
    import torch

    from omniner.models import causal, checkpoints

    checkpoint = checkpoints.find(Path(context.config.checkpoint or ""))
    causal.merge(checkpoint, output, torch.bfloat16 if torch.cuda.is_available() else torch.float32)


def _generated(context: Context, output: Path) -> None:
    from omniner.analysis.predictions import read
    from omniner.analysis.predictions_write import write_generated

    config = context.config
    loaded = read(Path(config.input or ""), Path(config.gold) if config.gold else None)
    publish_issues(context, [*loaded.issues, *write_generated(output, loaded.gold, loaded.predictions)])


def _corpus(context: Context, target: str, output: Path) -> None:
    """One file, or a folder with a file for each split."""
    config = context.config
    if config.input:
        sentences, issues = sources.read_sentences(Path(config.input))
        splits, folder = {output.stem: sentences}, output.parent
        names = taxonomy.flat(output.stem, (entity.category for item in sentences for entity in item.entities))
        train = sentences
    else:
        corpus = sources.load(config.data, None)
        publish_corpus(context, corpus)
        splits = {f"{corpus.name}_{split}": sentences for split, sentences in corpus.splits.items()}
        issues, folder, names, train = list(corpus.issues), output, corpus.taxonomy, corpus.splits["train"]
    make_folder(folder)
    active = names.active(train)
    for name, sentences in splits.items():
        path = output if config.input else folder / f"{name}{_SUFFIXES[target]}"
        issues += _write(context, target, path, sentences, train, active)
        log.info("%s: %d sentences", path, len(sentences))
    publish_issues(context, issues)


def _write(
    context: Context,
    target: str,
    path: Path,
    sentences: Sequence[Sentence],
    train: Sequence[Sentence],
    categories: Sequence[str],
) -> list[Issue]:
    if target == "jsonl":
        jsonl.write(path, sentences)
        return []
    if target == "conll":
        data = context.config.data
        return conll.write(path, sentences, scheme="bioes", separator="tab", joiner=data.joiner)
    config = context.config
    prompt = prompts.build(config.prompt, categories, train)
    return alpaca.write(path, sentences, prompt, lambda entities: write_answer(entities, prompt.answer))
