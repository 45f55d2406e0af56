"""An MLflow model of a trained tagger or language model: `mlflow.pyfunc.load_model(...).predict(["一句话"])`.

MLflow keeps a file of Python with a model and executes it to create the model ("models from code"), so nothing is
pickled. Ours only names `PyfuncModel`: a copy of this code would call functions that newer versions may have renamed.
The model is this file, the checkpoint and the run's configuration. It takes texts and returns the entities of each as
`Mention` objects.
"""

import shutil
import tempfile
import warnings
from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

# MLflow warns about its own type hints when it is imported
warnings.filterwarnings("ignore", message=".*AnyType", category=UserWarning)

import mlflow  # noqa: E402
from mlflow.protos.databricks_pb2 import INTERNAL_ERROR, INVALID_PARAMETER_VALUE  # noqa: E402
from mlflow.types import ParamSchema, ParamSpec  # noqa: E402
from pydantic import BaseModel, SerializerFunctionWrapHandler, model_serializer  # noqa: E402

from omniner.config import run_config  # noqa: E402
from omniner.config.groups import Config  # noqa: E402
from omniner.config.model_groups import DecodingConfig, EncodingConfig  # noqa: E402
from omniner.config.validate import validate  # noqa: E402
from omniner.errors import UserError  # noqa: E402
from omniner.files import write_text  # noqa: E402
from omniner.records import Entity, Sentence, confident, entity_to_json  # noqa: E402
from omniner.registry import load_extensions  # noqa: E402

_MODEL_FILE = '''"""The model of an OmniNER run; the installed OmniNER holds its code."""

import mlflow

from omniner.tracking.pyfunc import PyfuncModel

mlflow.models.set_model(PyfuncModel())
'''


MIN_SCORE = "min_score"


class Mention(BaseModel):
    """An entity in a form that MLflow's signatures can describe; offsets count characters, and `end` is exclusive.

    Words that a language model writes, but that are not in the sentence, have no offsets. `score` is the model's
    confidence, if it was asked for; else it is left out.
    """

    text: str
    category: str
    start: int | None = None
    end: int | None = None
    score: float | None = None

    @model_serializer(mode="wrap")
    def _without_missing_score(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        values: dict[str, Any] = serialize(self)
        return {name: value for name, value in values.items() if name != "score" or value is not None}


class PyfuncModel(mlflow.pyfunc.PythonModel):  # type: ignore[misc, name-defined]
    """The model that MLflow serves: it loads the checkpoint once and tags lists of texts."""

    def load_context(self, context: Any) -> None:
        """Read the configuration that was saved with the model; it answers on the device that this machine has.

        Whoever loads it may choose `on_too_long` and `scores`, by MLflow's `model_config`; they stand for
        `encoding.on_too_long` and `decoding.scores`.
        """
        from omniner.models import load_predictor

        load_extensions()
        config = run_config.read(Path(context.artifacts["config"]))
        config.trainer = replace(
            config.trainer, accelerator="auto", devices=1, nodes=1, strategy="auto", precision="auto"
        )  # fmt: skip
        chosen = _choices(config) | (context.model_config or {})
        scores = {"scores": chosen.pop("scores")}
        config.encoding = validate(EncodingConfig, asdict(config.encoding) | chosen, "encoding")
        config.decoding = validate(DecodingConfig, asdict(config.decoding) | scores, "decoding")
        # a request may choose a lower one: all entities are found, and left out of the answer to it
        self._scored, self._least = config.decoding.gives_scores, config.decoding.min_score or 0.0
        config.decoding = replace(config.decoding, scores=self._scored, min_score=None)
        self._model = load_predictor(config, Path(context.artifacts["checkpoint"]))

    def predict(
        self, context: Any, model_input: list[str], params: dict[str, Any] | None = None
    ) -> list[list[Mention]]:
        """Return the entities of each text, in the order of the texts.

        Args:
            context: of MLflow; not used.
            model_input: the texts.
            params: `min_score`, the confidence below which entities are left out; those without one, too, if it is
                above 0. Without it, the run's `decoding.min_score`.

        Raises:
            MlflowException: a text or a parameter is refused, which is the client's error (status 400), or the model
                cannot answer, which is the server's (status 500; MLflow would call any other exception the client's).
        """
        least = self._least_score(params or {})
        sentences = [Sentence(f"inputs[{number}]", text) for number, text in enumerate(model_input)]
        try:
            found = {item.id: item for batch in self._model.predict(sentences) for item in batch}
        except UserError as error:
            code = INVALID_PARAMETER_VALUE if error.refuses_text else INTERNAL_ERROR
            raise mlflow.exceptions.MlflowException(str(error), code) from error
        return [_mentions(found[sentence.id].entities, least) for sentence in sentences]

    def _least_score(self, params: dict[str, Any]) -> float:
        """Return `min_score` of a request; raise an `MlflowException` for a wrong one, or another parameter."""
        least, wrong = params.get(MIN_SCORE, self._least), ""
        if unknown := sorted(params.keys() - {MIN_SCORE}):
            wrong = f"{unknown[0]}: there is no such parameter. Leave it out; a request may give {MIN_SCORE}."
        elif isinstance(least, bool) or not isinstance(least, int | float) or not 0 <= least <= 1:
            wrong = f"{MIN_SCORE}: {least!r} is no confidence. Give a number from 0 to 1."
        elif least and not self._scored:
            wrong = f"{MIN_SCORE}: the model was loaded without scores. Load it with the model_config scores=true."
        if wrong:
            raise mlflow.exceptions.MlflowException(wrong, INVALID_PARAMETER_VALUE)
        return float(least)


def _choices(config: Config) -> dict[str, Any]:
    """Return what whoever loads the model may change, as the run had it."""
    return {"on_too_long": config.encoding.on_too_long, "scores": config.decoding.gives_scores}


def _mentions(entities: Iterable[Entity], least: float) -> list[Mention]:
    return [Mention(**entity_to_json(entity)) for entity in confident(entities, least)]


def save_model(folder: Path, checkpoint: Path, config: Path) -> None:
    """Write a trained model as an MLflow model.

    Args:
        folder: folder to write; an existing one is replaced.
        checkpoint: checkpoint of the trained run, copied into the folder.
        config: the run's `config.yaml`, copied into the folder.
    """
    from omniner.version import __version__

    settings = run_config.read(config)
    if folder.exists():
        shutil.rmtree(folder)
    with tempfile.TemporaryDirectory() as aside:
        mlflow.pyfunc.save_model(
            str(folder),
            python_model=str(write_text(Path(aside) / "omniner_model.py", _MODEL_FILE)),
            artifacts={"checkpoint": str(checkpoint), "config": str(config)},
            model_config=_choices(settings),
            pip_requirements=[f"omniner=={__version__}"],
        )
    # MLflow makes the signature of type hints, which cannot describe parameters. It leaves out any other parameter of a
    # request, with a warning that names it.
    saved = mlflow.models.Model.load(str(folder))
    saved.signature.params = ParamSchema([ParamSpec(MIN_SCORE, "double", settings.decoding.min_score or 0.0)])
    saved.save(str(folder / "MLmodel"))
