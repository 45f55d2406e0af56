"""The Python interface: what the command line does, as functions that return objects.

Each function composes the same configuration as the command line from the same arguments (`overrides`), so that results
can be reproduced there, and raises the same one-line `UserError`. Heavy libraries are imported inside the functions.
`omniner/__init__.py` exports these names as `omniner.<name>`.
"""

from __future__ import annotations

import dataclasses
import logging
import re
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import count, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, overload

from omniner.answers import prediction_from_answer
from omniner.corpus.formats import FORMATS
from omniner.errors import UserError
from omniner.files import explaining
from omniner.frames import (
    check_meta,
    check_path,
    config_from_memory,
    corpus_lines,
    gold_of,
    listed,
    listed_texts,
    load_predictions,
    records_of,
    records_or_rows,
    sentences_to_tag,
    stream_of_texts,
)
from omniner.model_files import DESCRIPTION
from omniner.progress import logged
from omniner.records import Issue, Prediction, Sentence, is_unread, prediction_to_json, tagged_sentence
from omniner.registry import load_extensions, writable_formats

if TYPE_CHECKING:
    import pandas as pd

    from omniner.config.groups import Config
    from omniner.frames import Answers, Corpus, Gold
    from omniner.llm.prompts import Prompt
    from omniner.runs.run_files import RunFiles
    from omniner.scoring.comparison import RunComparison
    from omniner.scoring.metrics import ErrtaResult, ScoreResult
    from omniner.scoring.predictions import LoadedPredictions

    Answering: TypeAlias = Callable[[Sequence[Sentence]], Iterable[list[Prediction]]]

log = logging.getLogger("omniner")


class Sentences(list[Sentence]):
    """The sentences of a file.

    Attributes:
        issues: what could not be read or had to be changed, with file and line; may be empty.
    """

    def __init__(self, sentences: Iterable[Sentence], issues: Iterable[Issue] = ()) -> None:
        super().__init__(sentences)
        self.issues = list(issues)


def read(path: str | Path, format: str = "auto") -> Sentences:
    """Read a corpus file, or a brat folder.

    Args:
        path: the file or folder.
        format: `auto` detects it; or one of `data.format`: jsonl, conll, cluener, label_studio, ...

    Returns:
        Its sentences, with the issues of the file as `.issues`.

    Raises:
        UserError: it does not exist, its format cannot be detected, or nothing of it can be read as `format`.
    """
    from omniner.corpus import formats
    from omniner.corpus.sources import check_read

    load_extensions()
    path = check_path("path", path)
    if format != "auto" and format not in FORMATS:
        raise UserError("format", f"{format!r} is unknown", f"Use auto, {', '.join(FORMATS)}.")
    with explaining(path):
        return Sentences(*check_read(path, *formats.read(path, format, formats.ReadOptions(id_prefix=path.stem))))


def write(
    records: Iterable[Sentence] | Iterable[Prediction] | pd.DataFrame,
    path: str | Path,
    format: str = "jsonl",
    *,
    sentences: Iterable[Sentence] | pd.DataFrame | None = None,
    scheme: str = "bioes",
    separator: str = "tab",
    joiner: str = "",
) -> list[Issue]:
    """Write a corpus file (for brat: a new folder) or a predictions file, atomically.

    Args:
        records: sentences, with or without entities; or predictions, which `jsonl` holds, for `score` and `compare`;
            or a data frame of either.
        path: the file or folder to write.
        format: one of `data.format`.
        sentences: the sentences of the predictions. Their texts are written with the predictions, and every format can
            be used.
        scheme: tag scheme of `conll`: bioes | bio | bmes | bios.
        separator: column separator of `conll`: tab | space.
        joiner: for `conll`: the text between two tokens of a sentence; if empty, each character is a token.

    Returns:
        What the format could not hold, one issue for each sentence or kind of field.

    Raises:
        UserError: the format is unknown or does not hold such records, two predictions or two of `sentences` have one
            id, a prediction is of another text than its sentence, or `path` cannot be written.
    """
    from omniner.corpus import formats
    from omniner.files import write_json_lines

    load_extensions()
    path = check_path("path", path)
    items = records_or_rows(records, "records")
    _check_writable(format)
    predictions = [item for item in items if isinstance(item, Prediction)]
    theirs = None if sentences is None else records_of(Sentence, sentences, "sentences")
    by_id = {sentence.id: sentence for sentence in theirs or ()}
    _check_ids(predictions, theirs)
    if theirs is not None:
        _check_places(predictions, by_id)
    if format == "jsonl" and predictions:
        texts = {name: sentence.text for name, sentence in by_id.items()}
        write_json_lines(path, (prediction_to_json(item, texts.get(item.id)) for item in predictions))
        return []
    if predictions and sentences is None:
        fix = "Use jsonl, or give the sentences, too (sentences=...)."
        raise UserError("format", f"{format} holds sentences, and these are predictions", fix)
    tagged = [_tagged(by_id[item.id], item) if isinstance(item, Prediction) else item for item in items]
    if "meta" in FORMATS[format].holds:
        check_meta(tagged, "records")
    return formats.write(path, format, tagged, formats.WriteOptions(scheme, separator, joiner))


def _tagged(sentence: Sentence, prediction: Prediction) -> Sentence:
    """Return the sentence with its predicted entities; a model's raw answer is parsed first if necessary."""
    if is_unread(prediction):
        prediction = prediction_from_answer(sentence, prediction.raw, prediction.prompt_sha, prediction.engine)
    return tagged_sentence(sentence, prediction)


def _check_ids(predictions: Sequence[Prediction], sentences: Sequence[Sentence] | None) -> None:
    """Raise a `UserError` if two predictions have one id, or not exactly one of the given sentences has it."""
    known = Counter(item.id for item in sentences or ())
    for name, times in Counter(item.id for item in predictions).items():
        if times > 1:
            fix = "Predict all texts in one call, or Sentence records with ids of their own."
            raise UserError("records", f"{times} predictions have the id {name!r}", fix)
        if sentences is not None and known[name] != 1:
            found = f"{known[name] or 'none'} {'have' if known[name] else 'has'} the id {name!r} of a prediction"
            raise UserError("sentences", found, "Give those that were tagged, each with an id of its own.")


def _check_places(predictions: Iterable[Prediction], sentences: Mapping[str, Sentence]) -> None:
    """Raise a `UserError` for an entity that does not stand at its place in the text: it is of another sentence."""
    for item in predictions:
        text = sentences[item.id].text
        for surface, _, start, end in item.entities:
            if start is not None and text[start:end] != surface:
                found = (
                    f"{text[start:end]!r} stands at [{start}, {end}) of {item.id!r}, and {surface!r} in its prediction"
                )
                raise UserError("sentences", found, "Give those that were tagged.")


def _check_writable(format: str) -> None:
    """Raise a `UserError` for a format that `write` cannot write."""
    known = writable_formats()
    if format in known and not FORMATS[format].needs_prompt:
        return
    usable = [name for name in known if not FORMATS[name].needs_prompt]
    found, fix = f"{format!r} cannot be written", f"Use {', '.join(usable)}."
    if format in known:
        found, fix = f"{format!r} is written with a prompt", f"{fix} On the command line: task=convert to={format}."
    raise UserError("format", found, fix)


@dataclasses.dataclass(frozen=True, repr=False)
class TrainResult:
    """The result of a training run.

    Attributes:
        folder: folder of the run: checkpoints, predictions, tables, report.
        scores: the content of `scores.json`.
        run_id: id of the MLflow run; empty with `tracking=off`.
    """

    folder: Path
    scores: dict[str, Any]
    run_id: str

    def __repr__(self) -> str:
        return f"<TrainResult F1 {100 * self.f1:.1f} in {self.folder}>"

    @property
    def f1(self) -> float:
        """Micro F1 on the reported split, between 0 and 1."""
        return float(self.scores["metrics"]["micro"]["f1"])

    def load(self) -> Model:
        """Load the trained model."""
        return load(self.folder)


def train(
    overrides: Sequence[str] = (), *, train: Corpus | None = None, dev: Corpus | None = None, test: Corpus | None = None
) -> TrainResult:
    """Train a model, predict and score the reported split, and write the report, as the command line does.

    How it goes is logged as `omniner`, at level INFO, unless the program has set another level for this logger; where
    nobody has set up logging, it is written to stderr.

    Args:
        overrides: arguments of the command line, such as `["model=qwen2_0_5b", "data=cluener", "seed=7"]`.
        train: the sentences to train on, in place of the files of `data`: `Sentence` records, a data frame, dicts as
            the lines of a JSON file (those of a Hugging Face data set, too), tuples as for spaCy.
        dev: those that choose the checkpoint; without them `data.dev_from_train=0.1` cuts them from train.
        test: those that scores are reported on; with `data.report=dev` it is `dev`, and dev is cut from train.

    Returns:
        The run's folder, scores and MLflow id. After an interruption, the same arguments continue the run. The folder
        holds the sentences that were given (`from_memory/`), and its configuration names them.

    Raises:
        UserError: a mistake in a key, a file or a label; one in what is given is named as `train[3]`.
    """
    from omniner.files import read_json
    from omniner.run import alone, run
    from omniner.runs.folder import read_state

    words = _words(overrides)
    given = {"train": train, "dev": dev, "test": test}
    splits = {name: corpus_lines(corpus, name) for name, corpus in given.items() if corpus is not None}
    keys = {word.lstrip("+~").partition("=")[0] for word in words}
    if splits:
        words = words if "data" in keys else ["data=own", *words]
        config = config_from_memory(_compose("task=train", *words), splits, keys)
    else:
        config = _compose("task=train", *words)
    contents = {name: splits.pop(name)[0] for name in [*splits]}  # the only reference, which the run drops
    with alone, logged():
        folder = run(config, contents or None).resolve()
    return TrainResult(folder, dict(read_json(folder / "scores.json")), str(read_state(folder).get("run_id") or ""))


class Model:
    """A loaded model, made by `load`.

    Attributes:
        config: the configuration used for prediction.
        source: what the model was loaded from.
        categories: the categories that it can predict.
    """

    def __init__(self, config: Config, source: str, predict: Answering, categories: Sequence[str] = ()) -> None:
        self.config, self.source, self._predict, self.categories = config, source, predict, tuple(categories)

    def __repr__(self) -> str:
        return f"<omniner.Model from {self.source}>"

    @overload
    def predict(self, texts: str | Sentence) -> Prediction: ...  # type: ignore[overload-overlap]  # a text is no list of texts

    @overload
    def predict(self, texts: Iterable[str | Sentence]) -> list[Prediction]: ...

    def predict(self, texts: str | Sentence | Iterable[str | Sentence]) -> Prediction | list[Prediction]:
        """Tag sentences.

        Args:
            texts: one or several. `Sentence` records keep their ids, and their entities are ignored. A bare text gets
                an id made of `text-` and a number, starting with `text-0`.

        Returns:
            One prediction, or a list of them in the order of the texts.

        Raises:
            UserError: an item is no text, two sentences have one id, or a text is too long
                (`encoding.on_too_long=truncate` cuts it).
        """
        if isinstance(texts, str | Sentence):
            return self.predict([texts])[0]
        return self._tag(sentences_to_tag(texts))

    def _tag(self, sentences: Sequence[Sentence]) -> list[Prediction]:
        found: dict[str, Prediction] = {}
        for batch in self._predict(sentences):
            found |= {prediction.id: prediction for prediction in batch}
        return [found[sentence.id] for sentence in sentences]

    def pipe(self, texts: Iterable[str | Sentence], batch_size: int = 1000) -> Iterator[Prediction]:
        """Tag a stream of texts that need not fit into memory.

        Args:
            texts: as for `predict`; two records with one id are only noticed within a batch.
            batch_size: number of texts that are read and tagged together.

        Yields:
            their predictions, in their order, as soon as their batch is tagged.

        Raises:
            UserError: as for `predict`, or `batch_size` is less than 1.
        """
        if batch_size < 1:
            raise UserError("batch_size", f"{batch_size} texts cannot be tagged together", "Give 1 or more.")
        stream, free, first = stream_of_texts(texts), count(), 0
        while batch := list(islice(stream, batch_size)):
            yield from self._tag(sentences_to_tag(batch, free, first))
            first += len(batch)


_TRAINED = ("model", "head", "prompt", "tuning", "data")  # sections that cannot change after training


def load(source: str | Path | TrainResult, overrides: Sequence[str] = (), categories: Sequence[str] = ()) -> Model:
    """Load a model for tagging texts.

    Args:
        source: a run (what `train` returned, its folder, its name, its MLflow id), a checkpoint, the folder of a
            published causal model, or the address of a server with an OpenAI-compatible API, such as
            `http://localhost:8000/v1`.
        overrides: arguments of the command line that change the prediction: `decoding=guided`, `trainer=cpu`; for an
            untuned model or a server also the prompt: `prompt=errta`, `data=cluener`.
        categories: the categories that an untuned model or a server is asked for; by default those in train of `data`.

    Returns:
        The model; call its `predict` as often as you like.

    Raises:
        UserError: there is no such model, it cannot be loaded, or an override is of something that it was trained with.
    """
    text, overrides = _place("source", source), _words(overrides)
    categories = listed_texts("categories", categories, 'Give a list, such as ["品牌", "时间"].')
    if text.startswith(("http://", "https://")):
        return _load_server(text, overrides, categories)
    from omniner.compute.torch_settings import preserved_generators

    with explaining(text), preserved_generators():
        if (Path(text) / "config.json").is_file() and not (Path(text) / DESCRIPTION).is_file():
            return _load_published(Path(text), overrides, categories)
        if categories:
            raise UserError("categories", f"given for {text}, which knows those it was trained with", "Leave them out.")
        return _load_trained(text, overrides)


def _place(where: str, given: Any) -> str:
    """Return the path, name or address of a run, which may be given as the result of `train`."""
    if isinstance(given, TrainResult):
        return str(given.folder)
    check_path(where, given)
    return str(given)  # a `Path` would change an address


def _load_trained(text: str, overrides: Sequence[str]) -> Model:
    """Load the model of a run or a checkpoint, with the run's own settings unless an override changes them."""
    from omniner import models
    from omniner.config import run_config
    from omniner.runs.references import find_trained_model

    changed = [override.lstrip("+~").partition("=")[0] for override in overrides]
    for key in changed:
        if key.partition(".")[0] in _TRAINED:
            found = f"given for {text}, which keeps the {key.partition('.')[0]} it was trained with"
            raise UserError(key, found, "Leave it out.")
    config = _compose("task=train", *overrides)
    checkpoint = find_trained_model(text, config.tracking, "load")
    folders = checkpoint.resolve().parents[:2]  # the checkpoint is <run>/checkpoints/best, or stands alone
    if settings := next((folder / "config.yaml" for folder in folders if (folder / "config.yaml").is_file()), None):
        kept = [name for name in (*_TRAINED, "name", "encoding", "decoding", "seed") if name not in changed]
        given = [key for key in changed if "." in key and key.partition(".")[0] in kept]
        config = run_config.with_keys_of(config, given, run_config.with_sections_of(config, settings, kept))
    predictor = models.load_predictor(config, checkpoint)
    return Model(config, text, predictor.predict, models.known_categories(checkpoint))


def _load_published(folder: Path, overrides: Sequence[str], categories: Sequence[str]) -> Model:
    """Load an untuned causal model, to be asked for the categories."""
    from omniner import models
    from omniner.config.overrides import quote

    chosen = ["model=causal_path", f"model.path={quote(str(folder))}", f"model.name={quote(folder.resolve().name)}"]
    config = _compose("task=predict", *chosen, *overrides)
    prompt, texts = _prompt(config, categories)
    return Model(config, str(folder), models.load_untrained(config, prompt, texts).predict, prompt.categories)


def _load_server(url: str, overrides: Sequence[str], categories: Sequence[str]) -> Model:
    """Make a model of a server, to be asked for the categories."""
    from omniner.config.overrides import quote
    from omniner.llm.serving import openai_engine

    config = _compose("task=predict", "decoding=openai", f"decoding.url={quote(url)}", *overrides)
    prompt, _ = _prompt(config, categories)
    return Model(
        config,
        url,
        lambda sentences: openai_engine.predict_with_server(config.decoding, prompt, sentences, frozenset()),
        prompt.categories,
    )


def _prompt(config: Config, categories: Sequence[str]) -> tuple[Prompt, list[str]]:
    """Return the prompt for a model that was not trained here, and the texts of the train split if that was read."""
    from omniner.corpus import sources
    from omniner.llm import prompts

    if categories:
        return prompts.build_prompt(config.prompt, categories, [], config.data.definitions), []
    corpus = sources.load_corpus(config.data, ["train"])
    train = corpus.splits["train"]
    return prompts.build_prompt(config.prompt, corpus.active, train, corpus.definitions), [each.text for each in train]


def score(
    predictions: Answers | TrainResult,
    gold: Gold | None = None,
    overrides: Sequence[str] = (),
    issues: list[Issue] | None = None,
) -> ScoreResult:
    """Score predictions of any system against gold; no torch, no GPU.

    Args:
        predictions: a file (`predictions.jsonl`, LLaMA-Factory's `generated_predictions.jsonl`, ...), the folder of a
            run or what `train` returned, records, or a data frame (see `frame`). Records and rows with a model's text
            (`raw`) alone are read as a file of them is; sentences are taken for answers.
        gold: a corpus file, records or a data frame; may be omitted if the predictions file has labels or a
            `gold.jsonl` beside it.
        overrides: arguments of the command line: `metrics.profile=official`, `metrics.unit=pair`,
            `errta.mode=official`, `metrics.bootstrap=0`.
        issues: a list that receives what could not be read; the result's `issues` holds the same.

    Returns:
        Scores with intervals (`.metrics`), sorted errors (`.errta`), how answers were parsed (`.parse`); `.to_json()`
        is the content of `scores.json`, `frame` makes tables of it.

    Raises:
        UserError: a file or a record cannot be read, or a key is wrong.
    """
    from omniner.scoring.scorer import score_loaded

    config = _compose("task=train", "tracking=off", *_words(overrides))
    answers = predictions.folder if isinstance(predictions, TrainResult) else predictions
    loaded = load_predictions(answers, gold_of(gold), "predictions", config.data)
    result = score_loaded(loaded, config.metrics, config.errta)
    if issues is not None:
        issues += result.issues
    return result


def errta(predictions: Answers | TrainResult, gold: Gold | None = None, overrides: Sequence[str] = ()) -> ErrtaResult:
    """Sort the errors of predictions into the ERRTA types.

    Args:
        predictions: as for `score`.
        gold: as for `score`.
        overrides: as for `score`.

    Returns:
        Every error with its gold and its prediction (`.errors`) and the counts (`.counts`); `frame` makes a table with
        one row per error.
    """
    return score(predictions, gold, ["metrics.bootstrap=0", *_words(overrides)]).errta


def compare(
    runs: Mapping[str, Answers | TrainResult] | Sequence[str | Path | TrainResult],
    gold: Gold | None = None,
    overrides: Sequence[str] = (),
) -> RunComparison:
    """Compare runs with the first one on the same test set: significance of differences, and which sentences changed.

    Args:
        runs: run folders or what `train` returned, run names, MLflow run ids or predictions files; a mapping gives
            each a name, and its values may also be records or data frames of predictions.
        gold: gold for runs that have none; by default records are compared on the gold of the first run that has it.
        overrides: arguments of the command line: `compare.resamples=1000`, `metrics.profile=official`.

    Returns:
        Scores of every run and the tested differences; `.to_json()` is the content of `comparison.json`. A warning
        names runs whose own reports count in another way.

    Raises:
        UserError: fewer than two runs are given, or a run cannot be found, is not finished, or was tested on other
            sentences.
    """
    from omniner.scoring.comparison import compare_runs
    from omniner.tasks.compare import align_runs, counted_otherwise

    config = _compose("task=train", *_words(overrides))
    found = _load_runs(runs, gold_of(gold), config)
    sources, loaded = [source for source, _ in found], [item for _, item in found]
    if len(sources) < 2:
        said = f"two or more are compared, {len(sources)} given"
        raise UserError("runs", said, "Name runs or predictions files, or give records in a mapping.")
    if twice := [name for name, count in Counter(source.name for source in sources).items() if count > 1]:
        raise UserError("runs", f"several are called {twice[0]!r}", "Give each a name of its own.")
    systems, _ = align_runs(sources, loaded)
    comparison = compare_runs(systems, config.metrics, config.errta, config.compare)
    for source, item in found:
        comparison.results[source.name].issues[:0] = item.issues
    for warning in counted_otherwise(sources, comparison, config):
        log.warning(warning)
    return comparison


def _load_runs(
    runs: Any, gold: Path | list[Sentence] | None, config: Config
) -> list[tuple[RunFiles, LoadedPredictions]]:
    """Find and load the runs to compare; return each run's files, and its predictions with gold, in the given order."""
    from omniner.runs.run_files import RunFiles, find_run_files
    from omniner.scoring.gold import GoldFile
    from omniner.tasks.compare import GoldFiles, read_run

    files: GoldFiles = {}
    config = dataclasses.replace(config, gold=str(gold) if isinstance(gold, Path) else None)
    given: dict[Any, Any] = dict(runs) if isinstance(runs, Mapping) else {"": _run_entries(runs)}
    found: dict[Any, list[tuple[RunFiles, LoadedPredictions]]] = {}
    with tempfile.TemporaryDirectory() as copies:
        for key, run in given.items():
            if isinstance(run, str | Path | TrainResult):
                entries = [_place(str(key), run)]
            elif isinstance(runs, Mapping):
                continue  # records, which may need the gold of a run
            else:
                entries = run
            sources = find_run_files(dataclasses.replace(config, runs=entries), Path(copies) / str(len(found)))
            found[key] = [(_named(source, str(key), len(sources)), read_run(source, files, gold)) for source in sources]
    of_records: GoldFile | list[Sentence] | None = GoldFile(gold, config.data, None) if isinstance(gold, Path) else gold
    if gold is None:
        of_records = next((item.gold for pairs in found.values() for _, item in pairs), None)
    for key, run in given.items():
        if key not in found:
            records = RunFiles(str(key), "records", Path(), None, None, {}, "")
            found[key] = [(records, load_predictions(run, of_records, str(key), config.data))]
    return [pair for key in given for pair in found[key]]


def _named(source: RunFiles, name: str, count: int) -> RunFiles:
    """Rename a run to the given name, if any; if a sweep has several runs, each keeps its own name after it."""
    return dataclasses.replace(source, name=name if count == 1 else f"{name} {source.name}") if name else source


def _run_entries(runs: Any) -> list[str]:
    """Return the entries of a list of runs as text, as on the command line."""
    fix = "Give records in a mapping, with a name for each system: {name: records}."
    items = listed("runs", runs, "Give a list of runs, or a mapping of names to runs.")
    for number, item in enumerate(items):
        if not isinstance(item, str | Path | TrainResult):
            raise UserError(f"runs[{number}]", f"{type(item).__name__} where a path or a name belongs", fix)
    return [_place(f"runs[{number}]", item) for number, item in enumerate(items)]


def _words(overrides: Sequence[str]) -> list[str]:
    """Return the overrides of a call.

    Raises:
        UserError: they are not a list, or hold something that works only on the command line.
    """
    words = listed_texts("overrides", overrides, 'Give a list of texts, such as ["seed=7"].')
    for word in words:
        if word.startswith("-"):
            fix = "Leave it out. For several values, call the function in a loop; for choices of your own, give "
            raise UserError(word, "a flag of the command line", f'{fix}"hydra.searchpath=[FOLDER]".')
        if word.lstrip("+~").partition("=")[0] == "task":
            fix = "Leave it out; other tasks are started on the command line."
            raise UserError("task", f"{word!r}, but each function does a task of its own", fix)
    return words


def _compose(*words: str) -> Config:
    """Compose and check a configuration; reword advice in errors for callers who have no command line."""
    from omniner.config import compose
    from omniner.config.overrides import EACH

    try:
        return compose.load(words)
    except UserError as error:
        if EACH not in error.fix:
            raise
        loop = "To run each of them, call the function in a loop. "
        fix = re.sub(rf"{re.escape(EACH)}.+?(?:\. |$)", loop, error.fix).rstrip()
        raise UserError(error.where, error.found, fix) from error
