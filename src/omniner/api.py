"""The Python interface: what the command line does, as functions that return objects.

Each function composes the same configuration as the command line from the same arguments (`overrides`), so that results
can be reproduced there, and raises the same one-line `UserError`. Heavy libraries are imported inside the functions.
`omniner/__init__.py` exports these names as `omniner.<name>`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar, overload

from omniner.errors import UserError
from omniner.model_files import DESCRIPTION
from omniner.records import Entity, Issue, Prediction, Sentence
from omniner.registry import load_extensions

if TYPE_CHECKING:
    import pandas as pd

    from omniner.config.groups import Config
    from omniner.llm.prompts import Prompt
    from omniner.scoring.comparison import RunComparison
    from omniner.scoring.metrics import ErrtaResult, ScoreResult

    Answering: TypeAlias = Callable[[Sequence[Sentence]], Iterable[list[Prediction]]]
    Answers: TypeAlias = str | Path | Sequence[Prediction] | pd.DataFrame
    Gold: TypeAlias = str | Path | Sequence[Sentence] | pd.DataFrame


T = TypeVar("T", Sentence, Prediction)


class Sentences(list[Sentence]):
    """The sentences of a file.

    Attributes:
        issues: what could not be read as it was, with file and line; empty if there was nothing.
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
        UserError: it does not exist, its format cannot be detected, or it is not in `format`.
    """
    from omniner.corpus import formats
    from omniner.corpus.sources import read_sentences

    load_extensions()
    if format == "auto":
        return Sentences(*read_sentences(Path(path)))
    return Sentences(*formats.read(Path(path), format, formats.ReadOptions(id_prefix=Path(path).stem)))


def write(
    sentences: Sequence[Sentence],
    path: str | Path,
    format: str = "jsonl",
    *,
    scheme: str = "bioes",
    separator: str = "tab",
    joiner: str = "",
) -> list[Issue]:
    """Write a corpus file (for brat: a new folder), completely or not at all.

    Args:
        sentences: with or without entities.
        path: the file or folder to write.
        format: one of `data.format`.
        scheme: of the tags of `conll`: bioes | bio | bmes | bios.
        separator: of the columns of `conll`: tab | space.
        joiner: of `conll`: what stands between the tokens in the texts; without one each character is a token.

    Returns:
        What the format could not hold, one issue for each sentence or kind of field.

    Raises:
        UserError: the format is unknown, or `path` cannot be written.
    """
    from omniner.corpus import formats

    load_extensions()
    return formats.write(Path(path), format, sentences, formats.WriteOptions(scheme, separator, joiner))


@dataclasses.dataclass(frozen=True)
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

    @property
    def f1(self) -> float:
        """Micro F1 on the reported split, between 0 and 1."""
        return float(self.scores["metrics"]["micro"]["f1"])

    def load(self) -> Model:
        """Load the trained model."""
        return load(self.folder)


def train(overrides: Sequence[str] = ()) -> TrainResult:
    """Train a model, predict and score the reported split, and write the report, as the command line does.

    Args:
        overrides: arguments of the command line, such as `["model=qwen2_0_5b", "data=cluener", "seed=7"]`.

    Returns:
        The run's folder, scores and MLflow id. After an interruption, the same arguments continue the run.

    Raises:
        UserError: a mistake in a key, a file or a label.
    """
    from omniner.config import compose
    from omniner.files import read_json
    from omniner.run import run
    from omniner.runs.folder import read_state

    config = compose.load(["task=train", *overrides])
    folder = run(config)
    return TrainResult(folder, dict(read_json(folder / "scores.json")), str(read_state(folder).get("run_id") or ""))


class Model:
    """A loaded model, made by `load`.

    Attributes:
        config: the configuration that it predicts with.
        source: what it was loaded from.
    """

    def __init__(self, config: Config, source: str, predict: Answering) -> None:
        self.config, self.source, self._predict = config, source, predict

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
                its number as id.

        Returns:
            One prediction, or a list of them in the order of the texts.

        Raises:
            UserError: two sentences have one id, or a text is too long (`encoding.on_too_long=truncate` cuts it).
        """
        if isinstance(texts, str | Sentence):
            return self.predict([texts])[0]
        sentences = [
            Sentence(str(number), item) if isinstance(item, str) else item for number, item in enumerate(texts)
        ]
        found: dict[str, Prediction] = {}
        ids = Counter(sentence.id for sentence in sentences)
        for name, count in ids.items():
            if count > 1:
                raise UserError("predict", f"{count} sentences have the id {name!r}", "Give each an id of its own.")
        for batch in self._predict(sentences):
            found |= {prediction.id: prediction for prediction in batch}
        return [found[sentence.id] for sentence in sentences]


def load(source: str | Path, overrides: Sequence[str] = (), categories: Sequence[str] = ()) -> Model:
    """Load a model for tagging texts.

    Args:
        source: a run (its folder, its name, its MLflow id), a checkpoint, the folder of a published causal model, or
            the address of a server with an OpenAI-compatible API, such as `http://localhost:8000/v1`.
        overrides: arguments of the command line that change how it predicts: `decoding=guided`, `trainer=cpu`; for a
            published model or a server also the prompt: `prompt=errta`, `data=cluener`.
        categories: those that a published model or a server is asked for; by default those in train of `data`.

    Returns:
        The model; call its `predict` as often as you like.

    Raises:
        UserError: there is no such model, or it cannot be loaded.
    """
    text = str(source)
    if text.startswith(("http://", "https://")):
        return _load_server(text, overrides, categories)
    if (Path(text) / "config.json").is_file() and not (Path(text) / DESCRIPTION).is_file():
        return _load_published(Path(text), overrides, categories)
    return _load_trained(text, overrides)


def _load_trained(text: str, overrides: Sequence[str]) -> Model:
    """The model of a run or of a checkpoint, with the run's own settings where no override changes them."""
    from omniner import models
    from omniner.config import compose
    from omniner.runs.folder import find_trained_model

    config = compose.load(["task=train", *overrides])
    checkpoint = find_trained_model(text, config.tracking, "load")
    folders = checkpoint.resolve().parents[:2]  # the checkpoint is <run>/checkpoints/best, or stands alone
    if settings := next((folder / "config.yaml" for folder in folders if (folder / "config.yaml").is_file()), None):
        changed = [override.lstrip("+~").partition("=")[0] for override in overrides]
        kept = [name for name in ("model", "head", "prompt", "encoding", "decoding", "seed") if name not in changed]
        given = [key for key in changed if "." in key and key.partition(".")[0] in kept]
        config = compose.with_keys_of(config, given, compose.adopt(config, settings, kept))
    return Model(config, text, models.load_predictor(config, checkpoint).predict)


def _load_published(folder: Path, overrides: Sequence[str], categories: Sequence[str]) -> Model:
    """A causal model as it was published, asked about the categories."""
    from omniner import models
    from omniner.config import compose
    from omniner.config.overrides import quote

    chosen = ["model=causal_path", f"model.path={quote(str(folder))}", f"model.name={quote(folder.resolve().name)}"]
    config = compose.load(["task=predict", *chosen, *overrides])
    prompt, texts = _prompt(config, categories)
    return Model(config, str(folder), models.load_untrained(config, prompt, texts).predict)


def _load_server(url: str, overrides: Sequence[str], categories: Sequence[str]) -> Model:
    """A model behind a server, asked about the categories."""
    from omniner.config import compose
    from omniner.config.overrides import quote
    from omniner.llm import server

    config = compose.load(["task=predict", "decoding=openai", f"decoding.url={quote(url)}", *overrides])
    prompt, _ = _prompt(config, categories)
    return Model(
        config, url, lambda sentences: server.predict_with_server(config.decoding, prompt, sentences, frozenset())
    )


def _prompt(config: Config, categories: Sequence[str]) -> tuple[Prompt, list[str]]:
    """What a model is told that was not trained here, and the texts of the train split if that was read."""
    from omniner.corpus import sources
    from omniner.llm import prompts

    if categories:
        return prompts.build_prompt(config.prompt, list(categories), [], config.data.definitions), []
    corpus = sources.load_corpus(config.data, ["train"])
    train = corpus.splits["train"]
    return prompts.build_prompt(config.prompt, corpus.active, train, corpus.definitions), [each.text for each in train]


def score(
    predictions: Answers, gold: Gold | None = None, overrides: Sequence[str] = (), issues: list[Issue] | None = None
) -> ScoreResult:
    """Score predictions of any system against gold; no torch, no GPU.

    Args:
        predictions: a file (`predictions.jsonl`, LLaMA-Factory's `generated_predictions.jsonl`, ...), records, or a
            data frame (see `frame`).
        gold: a corpus file, records or a data frame; may be omitted if the predictions file has labels or a
            `gold.jsonl` beside it.
        overrides: arguments of the command line: `metrics.profile=official`, `metrics.unit=pair`,
            `errta.mode=official`, `metrics.bootstrap=0`.
        issues: a list to which whatever could not be read is added; the result's `issues` has it as well.

    Returns:
        Scores with intervals (`.metrics`), sorted errors (`.errta`), how answers were parsed (`.parse`); `.to_json()`
        is the content of `scores.json`, `frame` makes tables of it.

    Raises:
        UserError: a file or a record cannot be read, or a key is wrong.
    """
    from omniner.config import compose
    from omniner.scoring.predictions import read_predictions
    from omniner.scoring.profiles import score_loaded, score_records

    config = compose.load(["task=train", "tracking=off", *overrides])
    if isinstance(predictions, str | Path):
        with _gold_file(gold) as path:
            result = score_loaded(read_predictions(Path(predictions), path), config.metrics, config.errta)
    elif gold is None:
        raise UserError("gold", "records of predictions hold no gold", "Give the gold sentences beside them.")
    else:
        result = score_records(_sentences(gold), _predictions(predictions), config.metrics, config.errta)
    if issues is not None:
        issues += result.issues
    return result


def errta(predictions: Answers, gold: Gold | None = None, overrides: Sequence[str] = ()) -> ErrtaResult:
    """Sort the errors of predictions into the ERRTA types.

    Args:
        predictions: as for `score`.
        gold: as for `score`.
        overrides: as for `score`.

    Returns:
        Every error with its gold and its prediction (`.errors`) and the counts (`.counts`); `frame` makes a table with
        one row per error.
    """
    return score(predictions, gold, ["metrics.bootstrap=0", *overrides]).errta


def compare(
    runs: Mapping[str, Answers] | Sequence[str | Path], gold: Gold | None = None, overrides: Sequence[str] = ()
) -> RunComparison:
    """Compare runs on one test set with the first of them: tested differences, and which sentences changed.

    Args:
        runs: run folders, run names, MLflow run ids or predictions files; a mapping gives each a name, and its values
            may also be records or data frames of predictions.
        gold: for runs that have none.
        overrides: arguments of the command line: `compare.resamples=1000`, `metrics.profile=official`.

    Returns:
        Scores of every run and the tested differences; `.to_json()` is the content of `comparison.json`.

    Raises:
        UserError: a run cannot be found, is not finished, or was tested on other sentences.
    """
    from omniner.config import compose
    from omniner.scoring.comparison import compare_runs
    from omniner.scoring.predictions import LoadedPredictions
    from omniner.tasks.compare import RunFiles, align_runs, find_run_files, read_runs

    config = compose.load(["task=train", *overrides])
    sources: list[RunFiles] = []
    loaded: list[LoadedPredictions] = []
    with tempfile.TemporaryDirectory() as copies, _gold_file(gold) as path:
        config = dataclasses.replace(config, gold=None if path is None else str(path))

        def add(*entries: str) -> None:
            found = find_run_files(dataclasses.replace(config, runs=list(entries)), Path(copies) / str(len(sources)))
            sources.extend(found)
            loaded.extend(read_runs(found)[0])

        named: Mapping[str, Answers] = runs if isinstance(runs, Mapping) else {}
        if not isinstance(runs, Mapping):
            add(*map(str, runs))
        for name, run in named.items():
            if isinstance(run, str | Path):
                add(f"{name}={run}")
            elif gold is None:
                raise UserError("gold", f"the records of {name} hold no gold", "Give the gold sentences.")
            else:
                sources.append(RunFiles(name, "records", Path(), None, {}, ""))
                loaded.append(LoadedPredictions(_sentences(gold), _predictions(run), [], 0.0))
        systems, _ = align_runs(sources, loaded)
    return compare_runs(systems, config.metrics, config.errta, config.compare)


def frame(what: Sequence[Sentence] | Sequence[Prediction] | ScoreResult | ErrtaResult | RunComparison) -> pd.DataFrame:
    """Make a pandas data frame of records or results.

    Args:
        what: sentences or predictions (one row each with `id`, `text` and `entities`), scores (one row per category),
            sorted errors (one row per error: its entities, and their texts and categories in columns of their own,
            between them ` + ` where there are several), or a comparison (one row per run).

    Returns:
        The data frame; those of sentences and predictions can be given to `score`, `errta` and `compare` again.

    Raises:
        UserError: `what` is something else.
    """
    import pandas as pd

    from omniner.scoring.comparison import RunComparison
    from omniner.scoring.metrics import ErrtaResult, ScoreResult

    rows: list[dict[str, Any]]
    if isinstance(what, ScoreResult):
        rows = [{"category": name, **row.to_json()} for name, row in what.metrics.categories.items()]
    elif isinstance(what, ErrtaResult):
        rows = [
            {
                "type": error.type,
                "id": error.sentence_id,
                "gold_text": " + ".join(entity.text for entity in error.gold),
                "gold_category": " + ".join(dict.fromkeys(entity.category for entity in error.gold)),
                "predicted_text": " + ".join(entity.text for entity in error.predicted),
                "predicted_category": " + ".join(dict.fromkeys(entity.category for entity in error.predicted)),
                "gold": error.gold,
                "predicted": error.predicted,
            }
            for error in what.errors
        ]
    elif isinstance(what, RunComparison):
        rows = [
            {"run": name, **result.metrics.micro.to_json(), **result.errta.counts}
            for name, result in what.results.items()
        ]
    else:
        items: object = what
        if not isinstance(items, Sequence):
            fix = "Give sentences, predictions, or what score, errta or compare returned."
            raise UserError("frame", f"{type(what).__name__} has no rows", fix)
        rows = [{name: getattr(item, name) for name in item.__dataclass_fields__} for item in items]
    return pd.DataFrame(rows)


def _sentences(gold: Gold) -> list[Sentence]:
    """Gold sentences from whatever holds them."""
    if isinstance(gold, str | Path):
        return read(gold)
    if isinstance(gold, Sequence):
        return list(gold)
    _check_columns(gold, ("id", "text", "entities"), "gold")
    return _records(Sentence, gold)


@contextlib.contextmanager
def _gold_file(gold: Gold | None) -> Iterator[Path | None]:
    """The file that holds gold: its own, or one made of its records for as long as it is needed."""
    if gold is None or isinstance(gold, str | Path):
        yield None if gold is None else Path(gold)
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "gold.jsonl"
        write(_sentences(gold), path)
        yield path


def _predictions(predictions: Sequence[Prediction] | pd.DataFrame) -> list[Prediction]:
    """Predictions from records or a data frame."""
    if isinstance(predictions, Sequence):
        return list(predictions)
    _check_columns(predictions, ("id", "entities"), "predictions")
    return _records(Prediction, predictions)


def _records(kind: type[T], table: pd.DataFrame) -> list[T]:
    """Records of the rows of a data frame, with all that its columns hold of them."""
    names = [field.name for field in dataclasses.fields(kind) if field.name in table.columns]
    made = []
    for row in table[names].to_dict("records"):
        # An empty cell of a file is no number to pandas, whatever its column.
        values = {name: cell for name, cell in row.items() if not (isinstance(cell, float) and cell != cell)}
        values |= {name: str(values.get(name, "")) for name in ("id", "text") if name in names}
        made.append(kind(**{**values, "entities": _entities(values.get("entities", ()))}))
    return made


def _check_columns(table: pd.DataFrame, columns: Sequence[str], where: str) -> None:
    missing = [name for name in columns if name not in table.columns]
    if missing:
        found = f"the data frame has no column {', '.join(missing)} (it has {', '.join(map(str, table.columns))})"
        raise UserError(where, found, f"Give it the columns {', '.join(columns)}.")


def _entities(cell: Any) -> list[Entity]:
    """Entities of a cell: a list of `Entity`, of tuples like it, or of objects like those of JSON lines."""
    return [Entity(**item) if isinstance(item, Mapping) else Entity(*item) for item in cell]
