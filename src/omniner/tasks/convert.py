"""`task=convert`: convert checkpoints, corpora and predictions.

- `to=llama`: a Baichuan2 or InternLM2.5 checkpoint folder (`input`) to the Llama layout, which needs no custom code.
- `to=safetensors`: a pretrained causal model (`input`: a GGUF file or a folder) to a folder that loads in seconds, in
  bf16.
- `to=merged`: a run's adapters (`checkpoint`) merged into plain weights that any server loads.
- `to=serve`: print the vLLM command that serves a run's model (`checkpoint=`) or the published model chosen with
  `model=`.
- `to=<corpus format>`: a file, or each file of a folder (`input`); without `input`, every split of `data`. The
  labelling configuration of `to=label_studio` has the categories found and, with `checkpoint`, all of the model's.
  `convert.scheme` and `convert.separator` are used by `to=conll`.
- `to=generated`: a run's predictions (`input`) in LLaMA-Factory's format, for scripts that read it.

Output is written atomically. What the target format cannot hold becomes an issue. A conversion is not tracked in
MLflow, where there would be nothing to compare; `tracking` only names the store in which `checkpoint` finds a run.
"""

from __future__ import annotations

import contextlib
import json
import logging
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from omniner.answers import render_answer
from omniner.config.groups import Config
from omniner.corpus import formats, sources, taxonomy
from omniner.corpus.formats import FORMATS, WriteOptions
from omniner.corpus.sources import Corpus
from omniner.errors import UserError
from omniner.files import check_new_folder, make_folder
from omniner.progress import show
from omniner.records import Issue, Sentence
from omniner.runs import outputs
from omniner.runs.context import Context, Input, Task, always, never, path_label
from omniner.runs.folder import GUIDANCE_COPY
from omniner.runs.references import find_trained_model
from omniner.tasks.prompting import build_run_prompt
from omniner.wording import counted

log = logging.getLogger("omniner")


def run(context: Context) -> None:
    """Run the conversion that `to` names."""
    config = context.config
    target, output = config.to, Path(config.output or "")
    if target == "auto":
        target = _recognised(config)
    if target == "serve":
        show(_serving_command(config))
        return
    if target == "llama":
        from omniner.convert.weights import convert_checkpoint

        with _making_folder(context, output):
            convert_checkpoint(Path(config.input or ""), output)
    elif target == "safetensors":
        from omniner.llm.language_model import write_plain_model

        with _making_folder(context, output):
            write_plain_model(config.input or "", output)
    elif target == "merged":
        from omniner.llm.language_model import write_merged_model

        with _making_folder(context, output):
            write_merged_model(find_trained_model(config.checkpoint or "", config.tracking), output)
    elif target == "generated":
        from omniner.scoring.official import write_generated
        from omniner.scoring.predictions import read_predictions

        loaded = read_predictions(Path(config.input or ""), Path(config.gold) if config.gold else None, config.data)
        with outputs.replacing(context, output):
            found = write_generated(output, loaded.gold, loaded.predictions)
        context.publish_issues([*loaded.issues, *found])
    else:
        _convert_corpus(context, target, output)
    show(f"written: {output}")


@contextlib.contextmanager
def _making_folder(context: Context, *folders: Path) -> Iterator[None]:
    """Write new folders in the block; an existing folder with content is refused, even with `overwrite`."""
    for folder in folders:
        check_new_folder(folder)
    with outputs.replacing(context, *folders):
        yield


def _serving_command(config: Config) -> str:
    """Return the shell command that serves a model, whose template is told what it is told in this process."""
    from omniner.llm.serving.openai_engine import with_template_options
    from omniner.llm.serving.vllm_engine import has_system_role, serve_command, served_base, served_checkpoint

    if config.checkpoint:
        checkpoint = find_trained_model(config.checkpoint, config.tracking)
        served, prompt = served_checkpoint(checkpoint, None)
        if prompt.system and not has_system_role(checkpoint):
            log.warning(
                "the model's chat template has no system role: clients must put its text, and a new line, before the "
                "user's, as task=predict checkpoint=... does"
            )
    else:
        served = served_base(config.llm)
    template_options = with_template_options(config.decoding).extra_body["chat_template_kwargs"]
    value = json.dumps(template_options) if template_options else None
    listen = {"port": 8000, "default-chat-template-kwargs": value}
    return shlex.join(serve_command(config.decoding, served, listen))


def _recognised(config: Config) -> str:
    """Return what `to=auto` means for the input."""
    given = Path(config.input or "")
    if given.suffix == ".gguf":
        return "safetensors"
    if not config.input or not (given / "config.json").is_file():
        names = ", ".join(name for name, format in FORMATS.items() if format.write)
        raise UserError("to", "auto, but what to convert is no checkpoint", f"Say to=merged, {names}.")
    return "llama"


def _convert_corpus(context: Context, target: str, output: Path) -> None:
    """Write one file, or a folder with a file for each file that was read or each split."""
    config = context.config
    format = FORMATS[target]
    if config.input:
        parts, issues = _read_input(config, output, format.suffix)
        train = [sentence for sentences in parts.values() for sentence in sentences]
        names = taxonomy.flat_taxonomy(output.stem, (entity.category for item in train for entity in item.entities))
        corpus = Corpus(output.stem, {"train": train}, names, issues)
        categories = _categories_of(config, len(names.categories)) if target == "label_studio" else ()
    else:
        corpus = sources.load_corpus(config.data, None)
        context.publish_corpus(corpus)
        parts = {output / f"{corpus.name}_{split}{format.suffix}": items for split, items in corpus.splits.items()}
        issues = list(corpus.issues)
        if format.needs_prompt and "train" not in corpus.splits:
            fix = "Name files of train, or the file to convert (input=)."
            raise UserError("data.files.train", "none, and the prompt names the categories of train", fix)
        categories = tuple(corpus.taxonomy.categories)
    columns = config.convert
    options = WriteOptions(columns.scheme, columns.separator, config.data.joiner or "", categories=categories)
    if format.needs_prompt:
        prompt, config = build_run_prompt(context, corpus, corpus.reported)
        context = replace(context, config=config)  # with the guidance, which is part of what is written
        options = replace(options, prompt=prompt, answer=lambda entities: render_answer(entities, prompt.answer))
    write = outputs.replacing if format.suffix else _making_folder
    with write(context, *parts):
        for path, sentences in parts.items():
            make_folder(path.parent)
            issues += formats.write(path, target, sentences, options)
            log.info("%s: %s", path, counted(len(sentences), "sentence"))
    context.publish_issues(issues)


def _categories_of(config: Config, found: int) -> Sequence[str]:
    """Return the model's categories, which annotators can choose beside the categories found in the input.

    Args:
        config: names the model in `checkpoint`; without one, there are no more categories.
        found: number of categories found, for the log.
    """
    if config.checkpoint:
        from omniner.models import known_categories

        return known_categories(find_trained_model(config.checkpoint, config.tracking))
    log.info("labels of the project: the %d categories found; checkpoint=<run> adds all that its model knows", found)
    return ()


def _read_input(config: Config, output: Path, suffix: str) -> tuple[dict[Path, list[Sentence]], list[Issue]]:
    """Read the input; return the sentences by the path to write them to, and issues."""
    given = Path(config.input or "")
    if formats.is_one_corpus(given):
        sentences, issues = sources.read_sentences(given, config.data)
        return {output: sentences}, issues
    parts: dict[Path, list[Sentence]] = {}
    found: list[Issue] = []
    for file in formats.corpus_files(given):
        path = output / f"{file.stem}{suffix}"
        if path in parts:
            raise UserError(file, f"{path.name} would be written twice", "Rename one of the files.")
        parts[path], issues = sources.read_sentences(file, config.data)
        found += issues
    if not parts:
        raise UserError("input", f"{given} holds no corpus files", "Name a corpus file, or a folder of them.")
    return parts, found


def _needs_input(config: Config) -> bool:
    """Whether `input` is required: other conversions read the corpus of `data`, or a checkpoint."""
    return config.to in ("auto", "llama", "safetensors", "generated")


def _check(config: Config) -> None:
    if config.to == "serve":
        return
    if not config.output:
        raise UserError("output", "task=convert needs it", "Set output=<file or folder to write>.")
    output = Path(config.output)
    if not output.exists():
        return
    if config.to == "auto":
        _recognised(config)
    file = _file_of(config)
    if file and output.is_dir():
        raise UserError("output", f"{output} is a folder", f"Name a file, such as {output / file}.")
    if not file and not output.is_dir():
        raise UserError("output", f"{output} is a file", "Name a folder.")


def _file_of(config: Config) -> str:
    """Suggest a name for the single output file that differs from the input's; empty if a folder is written."""
    if config.to == "generated":
        return "generated_predictions.jsonl"
    format, given = FORMATS.get(config.to), Path(config.input or "")
    is_file = format is not None and format.suffix and config.input and formats.is_one_corpus(given)
    return f"{given.stem}_{config.to}{format.suffix}" if format and is_file else ""


TASK = Task(
    name="convert",
    description=__doc__,
    run=run,
    label=lambda config: ["convert", path_label(config.input or config.checkpoint or ""), config.to],
    inputs=[
        Input("input", required=_needs_input),
        Input("checkpoint", required=lambda config: config.to == "merged", accepts=always),
        Input("gold", folder_allowed=False),
    ],
    check=_check,
    outputs=[GUIDANCE_COPY],
    settings=lambda config: ["to", "output"],
    tracked=never,
)
