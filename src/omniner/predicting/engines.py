"""Name the engines that run models (`decoding.engine`), and open the model that a command predicts with.

A `ChosenModel` is a model of which nothing is loaded yet: a checkpoint, or a causal model with its prompt. It says what
its predictions depend on and opens itself on its engine. `trained_model` and `prompted_model` make it; no other code
chooses by the engine's name.

An `Engine` is an entry of the registry `ENGINES`. It says which of these classes an engine has, and it answers what
rules and tasks ask of an engine. A further engine is one more `ENGINES.add(Engine(...))`, with a class for the models
that it runs. Every check of a configuration imports this module: what an engine needs is imported when it is opened.
"""

from __future__ import annotations

import contextlib
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omniner import registry
from omniner.config.groups import Config
from omniner.config.model_groups import DecodingConfig
from omniner.errors import UserError
from omniner.files import file_states
from omniner.model_files import weights_digest
from omniner.records import Prediction, Sentence
from omniner.registry import Registry

if TYPE_CHECKING:
    from omniner.llm.prompts import Prompt
    from omniner.llm.serving.vllm_engine import ServedModel

log = logging.getLogger("omniner")

Predict = Callable[[Sequence[Sentence], frozenset[str]], Iterable[list[Prediction]]]
"""Tags sentences batch by batch, except those whose ids are given."""

Tell = Callable[["Prompt"], Predict]
"""Returns a `Predict` that uses this prompt and logs no progress."""


class ChosenModel(ABC):
    """A model to predict with, which is not loaded yet."""

    @abstractmethod
    def open(self, config: Config) -> Predict:
        """Load it into this process, or connect to its server, which needs no torch in this process."""

    @abstractmethod
    def origin(self, config: Config) -> dict[str, Any]:
        """Return digests of its `checkpoint`, `prompt` and `weights`, each None if predictions do not depend on it."""

    @abstractmethod
    def to_json(self) -> dict[str, Any]:
        """Return it for a worker process, which reads it with `model_from_json`."""

    def settled(self, config: Config) -> tuple[Config, str]:
        """Ask which model it is, if only its server knows.

        Returns:
            The configuration that names it; and the `engine` of its predictions. If `origin` identifies the model, the
            configuration is unchanged and the text is empty.
        """
        return config, ""


@dataclass(frozen=True)
class TrainedModel(ChosenModel):
    """A trained model in this process: a tagger, or a causal model with the prompt that it was trained with.

    Attributes:
        checkpoint: as for `models.load_predictor`.
    """

    checkpoint: Path

    def open(self, config: Config) -> Predict:
        """See `ChosenModel`."""
        from omniner import models

        _prepare_process(config)
        return models.load_predictor(config, self.checkpoint).predict

    def origin(self, config: Config) -> dict[str, Any]:
        """See `ChosenModel`."""
        return {"checkpoint": file_states(self.checkpoint), "prompt": None, "weights": None}

    def to_json(self) -> dict[str, Any]:
        """See `ChosenModel`."""
        return {"checkpoint": str(self.checkpoint)}


@dataclass(frozen=True)
class PromptedModel(ChosenModel):
    """A causal model without a checkpoint.

    Attributes:
        prompt: the prompt that it is given.
        texts: sentences of train; the tokenizer of a model with random weights is made of their characters.
    """

    prompt: Prompt
    texts: list[str]

    @abstractmethod
    def open_prompts(self, config: Config) -> contextlib.AbstractContextManager[Tell]:
        """Open it once, to use it with one prompt after another, which name the same categories as its own."""

    def weights(self, config: Config) -> str | None:
        """Return a digest of its weights; None if they are not on this machine."""
        path = config.llm.path if config.llm else None
        return weights_digest(path) if path else None

    def origin(self, config: Config) -> dict[str, Any]:
        """See `ChosenModel`."""
        return {"checkpoint": None, "prompt": self.prompt.sha, "weights": self.weights(config)}

    def to_json(self) -> dict[str, Any]:
        """See `ChosenModel`."""
        return {"prompt": self.prompt.to_json(), "texts": self.texts}


class UntunedModel(PromptedModel):
    """The causal model of `model` in this process, untrained."""

    def open(self, config: Config) -> Predict:
        """See `ChosenModel`."""
        from omniner import models

        _prepare_process(config)
        return models.load_untrained(config, self.prompt, self.texts).predict

    @contextlib.contextmanager
    def open_prompts(self, config: Config) -> Iterator[Tell]:
        """See `PromptedModel`."""
        from omniner import models

        _prepare_process(config)
        loaded = models.load_untrained(config, self.prompt, self.texts)
        yield lambda prompt: loaded.with_prompt(prompt).predict


def _prepare_process(config: Config) -> None:
    from omniner.compute.devices import use_own_cores

    log.info("loading the model")  # takes some seconds, for a small model mostly to import torch
    use_own_cores(config.trainer)


class _OnServer(ChosenModel):
    """A model on somebody's server, which may have another model at another time."""

    def settled(self, config: Config) -> tuple[Config, str]:
        """See `ChosenModel`; asks the server unless `decoding.model` names its model."""
        from omniner.llm.serving.openai_engine import ask_for_model, engine_name

        model = ask_for_model(config.decoding)
        return replace(config, decoding=replace(config.decoding, model=model)), engine_name(model)


class TrainedOnServer(_OnServer, TrainedModel):
    """A trained causal model on somebody's server; the checkpoint here gives the prompt that it was trained with."""

    def open(self, config: Config) -> Predict:
        """See `ChosenModel`."""
        from omniner.llm.serving.openai_engine import predict_with_server, with_template_options
        from omniner.llm.serving.vllm_engine import has_system_role, trained_prompt

        asked = with_template_options(config.decoding)  # it is asked as in training
        prompt = trained_prompt(self.checkpoint)
        return partial(predict_with_server, asked, prompt, system_role=has_system_role(self.checkpoint))

    def origin(self, config: Config) -> dict[str, Any]:
        """See `ChosenModel`; the server's weights may be others than those here.

        Raises:
            UserError: the checkpoint is a tagger, which a server cannot run.
        """
        from omniner.llm.serving.vllm_engine import trained_prompt

        return {"checkpoint": None, "prompt": trained_prompt(self.checkpoint).sha, "weights": None}


class RemoteModel(_OnServer, PromptedModel):
    """A causal model on somebody's server, of which nothing is known here."""

    def open(self, config: Config) -> Predict:
        """See `ChosenModel`."""
        from omniner.llm.serving.openai_engine import predict_with_server

        return partial(predict_with_server, config.decoding, self.prompt)

    @contextlib.contextmanager
    def open_prompts(self, config: Config) -> Iterator[Tell]:
        """See `PromptedModel`."""
        from omniner.llm.serving.openai_engine import predict_with_server

        yield lambda prompt: partial(predict_with_server, config.decoding, prompt, quiet=True)

    def weights(self, config: Config) -> str | None:
        """See `PromptedModel`."""
        return None


class TrainedOnVLLM(TrainedModel):
    """A trained causal model behind vLLM, which runs while it predicts."""

    def open(self, config: Config) -> Predict:
        """See `ChosenModel`."""
        from omniner.llm.serving.vllm_engine import predict_with_vllm

        return partial(predict_with_vllm, config.decoding, self.checkpoint, None)


class UntunedOnVLLM(PromptedModel):
    """The causal model of `model` behind vLLM, which runs while it predicts."""

    def open(self, config: Config) -> Predict:
        """See `ChosenModel`."""
        from omniner.llm.serving.vllm_engine import predict_with_vllm

        return partial(predict_with_vllm, config.decoding, _served(config), self.prompt)

    @contextlib.contextmanager
    def open_prompts(self, config: Config) -> Iterator[Tell]:
        """See `PromptedModel`."""
        from omniner.llm.serving.openai_engine import predict_with_server
        from omniner.llm.serving.vllm_engine import serving_model

        with serving_model(config.decoding, _served(config)) as asked:
            yield lambda prompt: partial(predict_with_server, asked, prompt, quiet=True)


def _served(config: Config) -> ServedModel:
    from omniner.llm.serving.vllm_engine import served_base

    return served_base(config.llm)


def _check_address(decoding: DecodingConfig) -> None:
    if not decoding.url:
        raise UserError("decoding.url", "the server has no address", "Set decoding.url=http://host:port/v1.")


@dataclass(frozen=True)
class Engine:
    """What runs a model.

    Attributes:
        name: value of `decoding.engine`.
        meaning: its description in one line.
        in_process: whether models run in this process, on the devices of `trainer`; if there are several, a worker
            process predicts on each.
        local_weights: whether it loads weights of this machine: those of `checkpoint`, or of `model`.
        trained: returns the model of a checkpoint.
        prompted: returns the model that a prompt (and sentences of train) is made for.
        check: raises a `UserError` if `decoding` lacks a key that it needs.
    """

    name: str
    meaning: str
    in_process: bool
    local_weights: bool
    trained: Callable[[Path], ChosenModel]
    prompted: Callable[[Prompt, list[str]], PromptedModel]
    check: Callable[[DecodingConfig], None] = lambda decoding: None


ENGINES: Registry[Engine] = registry.ENGINES


def trained_model(config: Config, checkpoint: Path) -> ChosenModel:
    """Return the model of a checkpoint on the engine of the configuration."""
    return ENGINES[config.decoding.engine].trained(checkpoint)


def prompted_model(config: Config, prompt: Prompt, texts: list[str]) -> PromptedModel:
    """Return the untuned or served model of the configuration; see `PromptedModel` for the arguments."""
    return ENGINES[config.decoding.engine].prompted(prompt, texts)


def model_from_json(config: Config, value: Mapping[str, Any]) -> ChosenModel:
    """Return the model that `ChosenModel.to_json` has written; `config` names its engine."""
    if "checkpoint" in value:
        return trained_model(config, Path(value["checkpoint"]))
    from omniner.llm.prompts import Prompt

    return prompted_model(config, Prompt.from_json(value["prompt"]), list(value["texts"]))


def needs_checkpoint(config: Config) -> bool:
    """Whether a checkpoint is required: for a tagger; an untuned causal model or a server can answer without one."""
    return config.llm is None and ENGINES[config.decoding.engine].local_weights


ENGINES.add(
    Engine(
        "hf",
        "In this process, with transformers.",
        in_process=True,
        local_weights=True,
        trained=TrainedModel,
        prompted=UntunedModel,
    )
)
ENGINES.add(
    Engine(
        "openai",
        "On a server with an OpenAI-compatible API.",
        in_process=False,
        local_weights=False,
        trained=TrainedOnServer,
        prompted=RemoteModel,
        check=_check_address,
    )
)
ENGINES.add(
    Engine(
        "vllm",
        "On a vLLM server that the command starts and stops.",
        in_process=False,
        local_weights=True,
        trained=TrainedOnVLLM,
        prompted=UntunedOnVLLM,
    )
)
