"""An MLflow model of a trained tagger or language model: `mlflow.pyfunc.load_model(...).predict(["一句话"])`.

MLflow keeps a file of Python with a model and executes it to create the model ("models from code"), so nothing is
pickled. Ours only names `PyfuncModel`: a copy of this code would call functions that newer versions may have renamed.
The model is this file, the checkpoint and the run's configuration. It takes texts and returns the entities of each as
`Mention` objects.
"""

import shutil
import tempfile
import warnings
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

# MLflow warns about its own type hints when it is imported
warnings.filterwarnings("ignore", message=".*AnyType", category=UserWarning)

import mlflow  # noqa: E402
from mlflow.protos.databricks_pb2 import INTERNAL_ERROR, INVALID_PARAMETER_VALUE  # noqa: E402
from pydantic import BaseModel  # noqa: E402

from omniner.config import run_config  # noqa: E402
from omniner.config.model_groups import EncodingConfig  # noqa: E402
from omniner.config.validate import validate  # noqa: E402
from omniner.errors import UserError  # noqa: E402
from omniner.files import write_text  # noqa: E402
from omniner.records import Sentence, entity_to_json  # noqa: E402
from omniner.registry import load_extensions  # noqa: E402

_MODEL_FILE = '''"""The model of an OmniNER run; the installed OmniNER holds its code."""

import mlflow

from omniner.tracking.pyfunc import PyfuncModel

mlflow.models.set_model(PyfuncModel())
'''


class Mention(BaseModel):
    """An entity in a form that MLflow's signatures can describe; offsets count characters, and `end` is exclusive.

    Words that a language model writes, but that are not in the sentence, have no offsets.
    """

    text: str
    category: str
    start: int | None = None
    end: int | None = None


class PyfuncModel(mlflow.pyfunc.PythonModel):  # type: ignore[misc, name-defined]
    """The model that MLflow serves: it loads the checkpoint once and tags lists of texts."""

    def load_context(self, context: Any) -> None:
        """Read the configuration that was saved with the model; it answers on the device that this machine has.

        Whoever loads it may choose `on_too_long`, by MLflow's `model_config`; it stands for `encoding.on_too_long`.
        """
        from omniner.models import load_predictor

        load_extensions()
        config = run_config.read(Path(context.artifacts["config"]))
        config.trainer = replace(
            config.trainer, accelerator="auto", devices=1, nodes=1, strategy="auto", precision="auto"
        )  # fmt: skip
        chosen = {"on_too_long": config.encoding.on_too_long} | (context.model_config or {})
        config.encoding = validate(EncodingConfig, asdict(config.encoding) | chosen, "encoding")
        config.decoding = replace(config.decoding, scores=False)  # a `Mention` has none
        self._model = load_predictor(config, Path(context.artifacts["checkpoint"]))

    def predict(
        self, context: Any, model_input: list[str], params: dict[str, str] | None = None
    ) -> list[list[Mention]]:
        """Return the entities of each text, in the order of the texts.

        Raises:
            MlflowException: a text is refused, which is the client's error (status 400), or the model cannot answer,
                which is the server's (status 500; MLflow would call any other exception the client's).
        """
        sentences = [Sentence(f"inputs[{number}]", text) for number, text in enumerate(model_input)]
        try:
            found = {item.id: item for batch in self._model.predict(sentences) for item in batch}
        except UserError as error:
            code = INVALID_PARAMETER_VALUE if error.refuses_text else INTERNAL_ERROR
            raise mlflow.exceptions.MlflowException(str(error), code) from error
        return [[Mention(**entity_to_json(entity)) for entity in found[sentence.id].entities] for sentence in sentences]


def save_model(folder: Path, checkpoint: Path, config: Path) -> None:
    """Write a trained model as an MLflow model.

    Args:
        folder: folder to write; an existing one is replaced.
        checkpoint: checkpoint of the trained run, copied into the folder.
        config: the run's `config.yaml`, copied into the folder.
    """
    from omniner.version import __version__

    if folder.exists():
        shutil.rmtree(folder)
    with tempfile.TemporaryDirectory() as aside:
        mlflow.pyfunc.save_model(
            str(folder),
            python_model=str(write_text(Path(aside) / "omniner_model.py", _MODEL_FILE)),
            artifacts={"checkpoint": str(checkpoint), "config": str(config)},
            model_config={"on_too_long": run_config.read(config).encoding.on_too_long},
            pip_requirements=[f"omniner=={__version__}"],
        )
