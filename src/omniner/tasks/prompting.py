"""Build and publish the prompt of a causal model, with the errors of the run that `prompt.from_run` names, if any.

A task builds its prompt once and passes it on. The guidance is copied into the run's folder, and a resumed run uses
that copy, even if the other run has changed. A prompt must not show sentences of the reported split: this module checks
it against the corpus.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path

from omniner import tracking
from omniner.config.groups import Config
from omniner.corpus.sources import Corpus
from omniner.errors import UserError
from omniner.files import explaining, write_text
from omniner.guidance.lessons import GUIDANCE_FILE, Guidance, read_guidance
from omniner.guidance.prompt_errors import LengthFunction, log_errors_text, render_errors_text, with_errors_text
from omniner.llm.prompts import Prompt, build_prompt
from omniner.records import Sentence
from omniner.runs.context import Context
from omniner.runs.folder import GUIDANCE_COPY
from omniner.runs.references import resolve_run
from omniner.wording import first_of

log = logging.getLogger("omniner")

_NAMED = 3  # sentences named in an error


def build_run_prompt(context: Context, corpus: Corpus, reported: Sequence[Sentence]) -> tuple[Prompt, Config]:
    """Build the prompt of a run, with the guidance of another run if `prompt.from_run` names one, and publish that.

    Args:
        context: its folder keeps a copy of the guidance.
        corpus: the prompt names its active categories and takes examples from its `train`.
        reported: sentences that the run reports on, which the prompt must not show; empty if it reports on none.

    Returns:
        The prompt; and the configuration with the guidance in its `prompt`, to be recorded with predictions.

    Raises:
        UserError: the prompt's texts are wrong, there is no such guidance, it cannot be used, or the prompt would show
            sentences of `reported`.
    """
    config, guidance = with_guidance(context.config, context.folder, corpus.active, reported)
    if guidance is not None:
        publish_guidance(context, guidance)
    return _build(config, corpus), config


def build_unpublished_prompt(
    config: Config, folder: Path, corpus: Corpus, reported: Sequence[Sentence]
) -> tuple[Prompt, Config]:
    """Build the prompt of a configuration as `build_run_prompt` does that of a run, and publish nothing.

    Args:
        config: `model` decides how the length of guidance is measured, `tracking` where runs are looked up.
        folder: keeps a copy of the guidance.
        corpus: as for `build_run_prompt`, as are `reported`, the results and the errors.
    """
    config, _ = with_guidance(config, folder, corpus.active, reported)
    return _build(config, corpus), config


def _build(config: Config, corpus: Corpus) -> Prompt:
    return build_prompt(config.prompt, corpus.active, corpus.splits["train"], corpus.definitions)


def publish_guidance(context: Context, guidance: Guidance) -> None:
    """Track the guidance that `fetch_guidance` has copied into the run's folder, and where it comes from."""
    context.publish_file(GUIDANCE_COPY)
    context.run.tags(
        {
            "prompt.guidance": guidance.sha,
            "prompt.from_run": guidance.source.get("guide", ""),
            "prompt.from_test": guidance.from_test,
        }
    )


def publish_prompt(context: Context, prompt: Prompt) -> None:
    """Write and track a prompt, with its length and with the name and hash that predictions refer to."""
    turns = (f"[{turn['role']}]\n{turn['content']}\n" for turn in prompt.outline())
    text = "\n".join(turns)
    context.publish_text("prompt.txt", text)
    context.run.tags({"prompt": f"{prompt.name} {prompt.version} {prompt.language}", "prompt.sha": prompt.sha})
    context.run.metrics({f"prompt/{unit}": count(text) for unit, count in _measures(context.config).items()})
    log.info("prompt %s, version %s, hash %s", prompt.name, prompt.version, prompt.sha)


def with_guidance(
    config: Config, folder: Path, categories: Sequence[str], reported: Sequence[Sentence]
) -> tuple[Config, Guidance | None]:
    """Copy the configuration and put the guidance that `prompt.from_run` names into its prompt.

    Arguments and errors are those of `build_unpublished_prompt`; `categories` are those that the prompt names.

    Returns:
        The copy; and the guidance, None if none is named.
    """
    if config.prompt.from_run is None:
        return config, None
    guidance = fetch_guidance(config, folder)
    shown = render_errors_text(guidance, config.prompt, categories, length_measure(config)[1])
    _check_unseen(guidance, shown.sentences, reported)
    log_errors_text(config.prompt, guidance, categories, shown)
    return replace(config, prompt=with_errors_text(config.prompt, guidance, shown)), guidance


def fetch_guidance(config: Config, folder: Path) -> Guidance:
    """Return the guidance that `prompt.from_run` names; it is copied into the folder once, and read there from then on.

    Raises:
        UserError: there is no such guidance.
    """
    copy = folder / GUIDANCE_COPY
    if not copy.is_file():
        _copy_guidance(config, str(config.prompt.from_run), copy)
    return read_guidance(copy)


def length_measure(config: Config) -> tuple[str, LengthFunction]:
    """Return the unit that texts are measured in, and the function that measures them.

    The unit is tokens of the model, or characters if there is no pretrained tokenizer.
    """
    return list(_measures(config).items())[-1]


def _measures(config: Config) -> dict[str, LengthFunction]:
    """Return length functions by unit: characters, and tokens last if a pretrained tokenizer exists."""
    if config.llm is None or config.llm.path is None:
        return {"characters": len}
    from omniner.llm.loading import load_tokenizer  # imports torch; a server needs none without `path`

    tokenizer = load_tokenizer(config.llm.path, config.llm.revision).backend_tokenizer
    return {"characters": len, "tokens": lambda text: len(tokenizer.encode(text, add_special_tokens=False).ids)}


def _copy_guidance(config: Config, named: str, copy: Path) -> None:
    """Copy the guidance of a run of task=guide atomically, because ranks of a run may do so at the same time."""
    with tempfile.TemporaryDirectory() as fetched:
        path = Path(named)
        if not path.is_file():
            found = resolve_run(named, config.tracking, "prompt.from_run")
            if found.folder is None:
                tracking.fetch_artifacts(config.tracking, found.run_id, (GUIDANCE_FILE,), Path(fetched))
            path = (found.folder or Path(fetched)) / GUIDANCE_FILE
        if not path.is_file():
            message = f"the run {named} has no {GUIDANCE_FILE}"
            raise UserError("prompt.from_run", message, "Name a finished run of task=guide, or its guidance.json.")
        read_guidance(path)  # read it here first: an error then names this file, not the copy
        with explaining(path):
            text = path.read_text(encoding="utf-8-sig")
    write_text(copy, text)


def _check_unseen(guidance: Guidance, shown: Collection[str], reported: Sequence[Sentence]) -> None:
    """Raise a `UserError` if the prompt shows sentences of `reported`; warn if its notes are only about such ones.

    With guidance made from test errors (`guide.allow_test`), there is only a warning.
    """
    texts = {sentence.text for sentence in reported}
    known = {example.id: example.text for lesson in guidance.lessons for example in lesson.examples}
    about = {name for name, text in known.items() if text in texts}
    seen = {name for name in about if known[name] in shown}
    if not about:
        return
    if guidance.from_test:
        log.warning("the prompt is made of errors on the reported split (guide.allow_test): its scores are no test")
        return
    if not seen:
        log.warning(
            "the prompt is made of errors on sentences of the split that this run reports on, though it shows none of "
            "these: its scores are optimistic"
        )
        return
    names = first_of(sorted(seen), _NAMED)
    found = f"{len(seen)} of its examples stand in the split that this run reports on ({names})"
    raise UserError("prompt.from_run", found, "Run task=guide on dev or train of the same data configuration.")
