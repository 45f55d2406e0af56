"""Build models for training and load them for prediction; the only module that builds and loads both kinds.

A tagger (encoder or BiLSTM with a head) is stored in one file, a causal language model in a folder. Both are trained by
`fit` and predict with the `predict` of what `load_predictor` or `load_untrained` returns. Other modules never ask for a
kind of model but `config.llm`: whether the model is told what to do. Only the modules for the kind and purpose at hand
are imported: a BiLSTM loads no module of language models, and prediction does not load Lightning.

Predictions do not depend on the batch size or on the other sentences: padding is masked exactly, and the best path of a
sentence is independent of others. After an interruption a causal model decodes the same sentences together as before,
so that it continues with bit-identical results.
"""

from __future__ import annotations

import dataclasses
import gc
import logging
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch

from omniner.compute.devices import Devices, choose_devices, count_devices, use_own_cores
from omniner.compute.torch_settings import apply_settings, settings_for
from omniner.config.groups import Config
from omniner.config.model_groups import BiLSTMConfig, CausalConfig, EncoderConfig, TrainerConfig
from omniner.corpus.sources import Corpus
from omniner.errors import UserError
from omniner.files import read_json
from omniner.model_files import DESCRIPTION, layer_sizes
from omniner.pretrained import base_model
from omniner.progress import Progress
from omniner.records import Issue, Prediction, Sentence, without_unsure
from omniner.scoring.scorer import choose_scale
from omniner.training.plans import plan_longest_first
from omniner.wording import counted

if TYPE_CHECKING:
    from pytorch_lightning.callbacks import Callback
    from pytorch_lightning.loggers import Logger

    from omniner.llm.decoding.constraint import Constraint
    from omniner.llm.decoding.decoder import Decoder
    from omniner.llm.language_model import CausalModel
    from omniner.llm.prompts import Prompt
    from omniner.llm.training.generative_data import GenerativeData
    from omniner.llm.training.generative_module import GenerativeModule
    from omniner.taggers.batches import EncodedSentence
    from omniner.taggers.tagger_module import TaggerData, TaggerModule
    from omniner.training.fit import FitResult
    from omniner.training.learner import Learner, TrainingData

log = logging.getLogger("omniner")

ENGINE = "tagger"

_SEEDS = 1 << 32  # that Lightning accepts
_ENCODED = 20_000  # sentences that a tagger encodes at a time: about 50 MB
_ENOUGH = 1_000  # characters of texts to tag, of which the share of unknown ones says something
_MOST_IDLE = 4  # decoders with a cached prefix, kept for parallel calls; each takes tens of megabytes


def fit(
    config: Config,
    corpus: Corpus,
    prompt: Prompt | None,
    folder: Path,
    logger: Logger | bool | None,
    callbacks: Sequence[Callback],
    launch: Callable[[int, int, str, str], AbstractContextManager[None]] = lambda *_: nullcontext(),
) -> FitResult:
    """Train the model of a configuration, or resume its training.

    Args:
        config: the whole configuration; the sections of the model, `trainer` and `seed` are read.
        corpus: its `train` is trained on, its `dev` selects the checkpoint.
        prompt: for a causal model; None for a tagger.
        folder: of the run.
        logger: of Lightning, or none.
        callbacks: additional ones, before those of `trainer.callbacks`.
        launch: gets the number of processes that train on each machine, the number of machines, the accelerator and
            the precision; its context starts the others of this machine for the block.

    Raises:
        UserError: a mistake in configuration or data.
    """
    from omniner.training.fit import fit_module

    devices, planned = prepare_devices(config), config
    if config.llm is not None:
        from omniner.llm.training import memory

        held = memory.held_memory(devices)
        planned, devices = memory.plan_training(config, devices, folder / "checkpoints" / "last.ckpt")
    module: Learner
    data: TrainingData[Any]
    with launch(devices.per_node, config.trainer.nodes, devices.accelerator, devices.precision):
        if config.llm is None:
            module, data = prepare_tagger(planned, corpus)
        else:
            assert prompt is not None, "a causal model is told what to do"
            module, data = prepare_causal(planned, devices, corpus, prompt)
            longest = module.causal.longest_answer
            module.decoding = memory.plan_answers(
                config.decoding, dataclasses.replace(planned, tuning=module.tuning), devices, longest, held
            )
        result = fit_module(planned, devices, module, data, folder, logger, callbacks)
    # what was trained and its trainer refer to each other: without this they keep their memory while the best predicts
    del module, data
    gc.collect()
    torch.cuda.empty_cache()
    return result


def prepare_devices(config: Config) -> Devices:
    """Choose the devices on which the model is trained, and set the threads of this process and torch's settings."""
    accelerator, count = count_devices(config.trainer)
    use_own_cores(config.trainer, count if accelerator == "cpu" else 1)
    devices = _devices_for(config.trainer, config.model, trains=True)
    apply_settings(devices.precision, devices.deterministic)
    if devices.precision == "bf16-true" and config.tuning.method == "full":  # adapters stay in fp32
        log.warning(
            "trainer.precision=bf16-true rounds the weights themselves to 8 bits after each step: steps smaller than "
            "1/256 of a weight are lost. Weights that all learn need bf16-mixed"
        )
    return devices


def _devices_for(
    trainer: TrainerConfig, model: BiLSTMConfig | EncoderConfig | CausalConfig, *, trains: bool
) -> Devices:
    if isinstance(model, BiLSTMConfig):
        return choose_devices(trainer, large=False, trains=trains)
    return choose_devices(trainer, large=True, layer=layer_sizes(model.path, model.revision), trains=trains)


def prepare_tagger(config: Config, corpus: Corpus) -> tuple[TaggerModule, TaggerData]:
    """Build the module and the data for training a tagger.

    Raises:
        UserError: a mistake in configuration or data; all of them are found here.
    """
    from pytorch_lightning import seed_everything

    from omniner.taggers.batches import count_unknown
    from omniner.taggers.tagger import Tagger
    from omniner.taggers.tagger_module import TaggerData, TaggerModule

    train, unit = corpus.splits["train"], _unit_of_dev(config, corpus)
    seed_everything(config.seed % _SEEDS, verbose=False)
    tagger = Tagger.build(config, (sentence.text for sentence in train), sorted(corpus.active))
    tagger.head.check_scored(config.decoding)
    encoder, replacement = tagger.sentence_encoder(config.encoding), config.model.entity_replacement
    data = TaggerData(encoder, train, corpus.splits["dev"], config.trainer, replacement, config.seed)
    count_unknown(tagger.inputs, data.train).tell("train")
    return TaggerModule(tagger, config.trainer, config.seed, unit), data


def _unit_of_dev(config: Config, corpus: Corpus) -> str:
    """Return the unit that dev is scored by, the same for every kind of model."""
    return choose_scale(corpus.splits["dev"], config.metrics, config.errta)[0]


def prepare_causal(
    config: Config, devices: Devices, corpus: Corpus, prompt: Prompt
) -> tuple[GenerativeModule, GenerativeData]:
    """Build the module and the data for training a causal model.

    Raises:
        UserError: a mistake in configuration or data; all of them are found here.
    """
    from pytorch_lightning import seed_everything

    from omniner.llm.language_model import build_causal_model
    from omniner.llm.loading import mapped_dtype
    from omniner.llm.samples import PromptEncoder, answer_rate
    from omniner.llm.training.generative_data import GenerativeData
    from omniner.llm.training.generative_module import GenerativeModule

    model, tuning, train = config.llm, config.tuning, corpus.splits["train"]
    assert model is not None, "a tagger has no prompt"
    _check_sharding(config, devices)
    unit = _unit_of_dev(config, corpus)
    seed_everything(config.seed % _SEEDS, verbose=False)
    learns_all = config.tuning.method == "full"  # the model's own weights are trained, not adapters
    dtype = devices.dtype(learns_all)
    if learns_all and model.path is not None:  # the weights are converted to their training dtype on their devices
        dtype = mapped_dtype(model.path, dtype, model.revision)

    texts = [sentence.text for sentence in train]
    built = build_causal_model(model, tuning, prompt, texts, dtype, config.seed, devices.device, trains=True)
    encoder = PromptEncoder(built.chat, prompt, config.encoding)
    replacement, dev = model.entity_replacement, corpus.splits["dev"]
    data = GenerativeData(encoder, train, dev, config.trainer, tuning.pack_tokens, replacement, config.seed)
    _check_positions(built, data)
    built.answer_rate = answer_rate(data.train)
    built.longest_answer = max(len(sample.answer) for sample in data.train)
    _warn_of_cut_answers(built, data, config.decoding.max_new_tokens)
    return GenerativeModule(built, config, devices, data.prefix, unit), data


def _check_positions(built: CausalModel, data: GenerativeData) -> None:
    """Check that the longest prompt with its answer fits into the model's positions."""
    positions = getattr(base_model(built.model).config, "max_position_embeddings", None)
    samples = [*data.train, *data.dev]
    longest = max(samples, key=lambda sample: len(sample.prompt) + len(sample.answer))
    tokens = len(longest.prompt) + len(longest.answer)
    if positions is not None and tokens > positions:
        raise UserError(
            "encoding.max_length",
            f"sentence {longest.id} has {tokens} tokens with prompt and answer, the model takes {positions}",
            "Lower it, with encoding.on_too_long=truncate or skip, or take a shorter prompt.",
        )


def _warn_of_cut_answers(built: CausalModel, data: GenerativeData, limit: int | None) -> None:
    """Warn if answers may have fewer tokens (`limit`; None = auto) than those that are right."""
    from omniner.llm.samples import answer_limit

    rate, longest = built.answer_rate, built.longest_answer
    for split, samples in (("train", data.train), ("dev", data.dev)):
        cut = [
            sample for sample in samples if len(sample.answer) > (limit or answer_limit(sample.text, rate, 0, longest))
        ]
        if cut:
            most = max(len(sample.answer) for sample in cut)
            log.warning(
                "%s of %s need more tokens than decoding.max_new_tokens allows (%s first), up to %d: the last entities "
                "of such sentences cannot be found. Raise it",
                counted(len(cut), "gold answer"),
                split,
                cut[0].id,
                most,
            )


def _check_sharding(config: Config, devices: Devices) -> None:
    """Reject fsdp with bitsandbytes, whose weights and optimizer states cannot be sharded."""
    if devices.strategy != "fsdp":
        return
    if config.tuning.method == "qlora":
        raise UserError("trainer.strategy", "fsdp cannot divide 4-bit weights", "Use trainer=ddp, or tuning=lora.")
    if config.tuning.optimizer == "adamw_8bit":
        found = "fsdp cannot divide the state of an 8-bit optimizer"
        raise UserError("tuning.optimizer", found, "Use adamw: its state is divided between the processes.")


class Predictor(Protocol):
    """A model that is ready to predict."""

    def predict(self, sentences: Sequence[Sentence], done: frozenset[str] = frozenset()) -> Iterator[list[Prediction]]:
        """Yield predictions batch by batch, longest sentences first; match them by id.

        Every sentence gets exactly one prediction. If its text is cut or left out (`encoding.on_too_long`), the
        `reason` says so.

        Args:
            sentences: with unique ids; their entities are ignored. After an interruption, pass all of them again.
            done: ids of those that have a prediction already.

        Raises:
            UserError: a text is too long, and `encoding.on_too_long` is `fail`.
        """


def load_predictor(config: Config, checkpoint: Path) -> Predictor:
    """Load a trained model; torch's global settings are changed only while it computes, see `settings_for`.

    Args:
        config: `encoding`, `trainer`, `decoding` and `seed` are read; model and prompt come from the checkpoint.
        checkpoint: `best.ckpt` or `last.ckpt` of a tagger, or the `best` folder of a causal model.

    Raises:
        UserError: it is not a checkpoint.
    """
    if not checkpoint.is_dir():
        return TaggerPredictor(config, checkpoint)
    from omniner.llm.language_model import load_causal_model, merge_adapters

    devices = devices_for_prediction(config, checkpoint)
    with settings_for(devices):
        causal = load_causal_model(checkpoint, devices.dtype(learns=False), devices.device)
        merge_adapters(causal)
    return CausalPredictor(config, devices, causal)


def known_categories(checkpoint: Path) -> tuple[str, ...]:
    """Return the categories that a trained model can predict, in its order.

    Args:
        checkpoint: as for `load_predictor`.

    Raises:
        UserError: it is not a checkpoint.
    """
    if not checkpoint.is_dir():
        from omniner.taggers import tagger

        return tuple(tagger.read_description(checkpoint)["categories"])
    from omniner.llm.language_model import read_description
    from omniner.llm.prompts import Prompt

    return Prompt.from_json(read_description(checkpoint)["prompt"]).categories


def devices_for_prediction(config: Config, checkpoint: Path | None) -> Devices:
    """Choose the devices on which a trained model predicts; without a checkpoint, the model of the configuration.

    It may predict inside another program: the CPU threads change only if `trainer.threads` names a number, and torch's
    settings only while it computes (`settings_for`).
    """
    if config.trainer.threads:
        use_own_cores(config.trainer)
    if checkpoint is None:
        return _devices_for(config.trainer, config.model, trains=False)
    if not checkpoint.is_dir():
        from omniner.taggers.tagger import read_description

        described = read_description(checkpoint)["model"]
        kind = BiLSTMConfig if described["kind"] == "bilstm" else EncoderConfig
        return _devices_for(config.trainer, kind(**described), trains=False)
    described = read_json(checkpoint / DESCRIPTION)
    base, commit = described.get("base"), described.get("base_revision")  # adapters have no sizes of their own
    layer = layer_sizes(str(checkpoint)) or layer_sizes(base, commit)
    return choose_devices(config.trainer, large=True, layer=layer, trains=False)


def load_untrained(config: Config, prompt: Prompt, texts: Sequence[str]) -> CausalPredictor:
    """Load the causal model of the configuration without training.

    Args:
        config: names the model; `tuning` decides whether its weights are quantised.
        prompt: for the model.
        texts: training sentences, whose characters the tokenizer of a random model must know.

    Raises:
        UserError: the model is a tagger, or cannot be loaded.
    """
    from omniner.llm.language_model import build_causal_model

    if config.llm is None:
        raise UserError("checkpoint", "a tagger must be trained before it can predict", "Set checkpoint=<path>.")
    devices = devices_for_prediction(config, checkpoint=None)
    tuning, dtype = config.tuning, devices.dtype(learns=False)
    built = build_causal_model(config.llm, tuning, prompt, texts, dtype, config.seed, devices.device, trains=False)
    return CausalPredictor(config, devices, built)


class TaggerPredictor:
    """A trained tagger.

    Args:
        config: `encoding`, `trainer`, `decoding.scores` and `decoding.min_score` are read.
        checkpoint: its file.
    """

    def __init__(self, config: Config, checkpoint: Path) -> None:
        from omniner.taggers.tagger import load_tagger

        tagger = load_tagger(checkpoint)
        tagger.head.check_scored(config.decoding)
        self._config, self._devices = config, devices_for_prediction(config, checkpoint)
        self._tagger = tagger.to(self._devices.device)
        self._told_unknown = False  # a program may ask about one text after another

    def predict(self, sentences: Sequence[Sentence], done: frozenset[str] = frozenset()) -> Iterator[list[Prediction]]:
        """See `Predictor`."""
        left = _bare(sentence for sentence in sentences if sentence.id not in done)
        left.sort(key=lambda sentence: -len(sentence.text))
        parts = [left[start : start + _ENCODED] for start in range(0, len(left), _ENCODED)]
        encoder = self._tagger.sentence_encoder(self._config.encoding)
        if self._config.encoding.on_too_long == "fail":
            checked = Progress("sentences checked", len(left))
            for part in parts[1:]:
                encoder.encode(part)  # text that cannot be encoded stops the work before it begins
                checked.add(len(part))
        progress: Progress | None = None
        for part in parts:
            examples, issues = encoder.encode(part)
            self._tell_unknown(examples)
            # from the first encoded part on: its encoding, before any is tagged, says nothing about the rate
            progress = progress or Progress("sentences tagged", len(left))
            reasons = _reasons(issues)
            for unread in _unread(part, {example.id for example in examples}, reasons, ENGINE):
                yield unread
                progress.add(len(unread))
            for found in self._tag(examples, reasons):
                yield found
                progress.add(len(found))

    def _tell_unknown(self, examples: Sequence[EncodedSentence]) -> None:
        """Log the characters that the model reads as `[UNK]`, once: of the first texts, which are the longest."""
        from omniner.taggers.batches import count_unknown

        if not self._told_unknown and sum(example.length for example in examples) >= _ENOUGH:
            count_unknown(self._tagger.inputs, examples).tell("the text")
            self._told_unknown = True

    def _tag(self, examples: Sequence[EncodedSentence], reasons: Mapping[str, str]) -> Iterator[list[Prediction]]:
        """Tag encoded sentences, batch by batch; `reasons` are copied to the predictions of their sentences."""
        from omniner.taggers.batches import collate

        device, mixed = self._devices.device, self._devices.precision != "32-true"
        decoding = self._config.decoding
        for positions in plan_longest_first(
            [example.length for example in examples], self._config.trainer.eval_batch_size
        ):
            batch = collate([examples[position] for position in positions], 0, 1).to(device)
            with (
                settings_for(self._devices),
                torch.inference_mode(),
                torch.autocast(device.type, torch.bfloat16, enabled=mixed),
            ):
                if decoding.gives_scores:
                    entities = self._tagger.scored_entities(batch)
                else:
                    entities = self._tagger.entities(batch, self._tagger.spans(batch))
            yield [
                without_unsure(Prediction(name, found, reason=reasons.get(name, ""), engine=ENGINE), decoding.min_score)
                for name, found in zip(batch.ids, entities, strict=True)
            ]


class CausalPredictor:
    """A causal model, trained or untuned.

    Args:
        config: `encoding`, `decoding` and `seed` are read.
        devices: where it runs.
        causal: the model; it is moved there.
        quiet: log no progress, because this is a part of work that logs its own.
    """

    def __init__(self, config: Config, devices: Devices, causal: CausalModel, quiet: bool = False) -> None:
        from omniner.llm.samples import PromptEncoder
        from omniner.llm.training.memory import slots_beside, with_slots

        causal.model.to(devices.device).eval()
        slots = slots_beside(causal.model, config.decoding, devices, causal.longest_answer)
        self._config, self._devices = with_slots(config, slots), devices
        self._causal, self._encoder = causal, PromptEncoder(causal.chat, causal.prompt, config.encoding)
        self._quiet = quiet
        self._constraints: dict[str, Constraint | None] = {}  # by answer style
        self._idle: deque[Decoder] = deque(maxlen=_MOST_IDLE)  # each with the prefix that it has read

    def with_prompt(self, prompt: Prompt) -> CausalPredictor:
        """Return a quiet predictor with the same weights and another prompt, which has the same categories."""
        causal = dataclasses.replace(self._causal, prompt=prompt)
        other = CausalPredictor(self._config, self._devices, causal, quiet=True)
        other._constraints = self._constraints  # building them takes seconds for many categories
        return other

    def predict(self, sentences: Sequence[Sentence], done: frozenset[str] = frozenset()) -> Iterator[list[Prediction]]:
        """See `Predictor`."""
        from omniner.llm.decoding.hf_engine import engine_name, predict_answers

        config = self._config
        if done.issuperset(sentence.id for sentence in sentences):
            return
        samples, issues = self._encoder.encode(_bare(sentences))
        reasons, encoded = _reasons(issues), {sample.id for sample in samples}
        yield from _unread(sentences, encoded | done, reasons, engine_name(config.decoding))
        if not samples:
            return
        decoder = self._take_decoder(samples[0].prompt[: self._encoder.prefix_length(samples)])
        left = sum(sample.id not in done for sample in samples)
        progress = Progress(
            "sentences answered",
            left,
            at_once=True,
            enough=config.decoding.usual_slots,
            quiet=self._quiet,
            note=lambda: decoder.progress_note,
        )
        try:
            with closing(predict_answers(self._causal, decoder, samples, done)) as answers:
                for batch in answers:
                    for prediction in batch:
                        prediction.reason = "; ".join(filter(None, (reasons.get(prediction.id, ""), prediction.reason)))
                    yield [without_unsure(prediction, config.decoding.min_score) for prediction in batch]
                    progress.add(len(batch))
        finally:  # the caller may stop after the first answer
            self._idle.append(decoder)

    def _take_decoder(self, prefix: list[int]) -> Decoder:
        """Return an idle decoder whose prefix is the same, because reading a prefix takes seconds; else create one.

        A call may begin while another one is running, in this thread or another: each has its own decoder.
        """
        from omniner.llm.decoding.decoder import Decoder

        with suppress(IndexError):  # all are in use
            if (idle := self._idle.pop()).prefix == prefix:
                return idle
        causal, config = self._causal, self._config
        within = partial(settings_for, self._devices)
        decoder = Decoder(causal.model, causal.chat, prefix, config.decoding, self._constraint, config.seed, within)
        if prefix and not self._quiet:
            log.info("reading the %s that all prompts begin with", counted(len(prefix), "token"))
        decoder.read_prefix()
        return decoder

    @property
    def _constraint(self) -> Constraint | None:
        from omniner.llm.decoding.hf_engine import build_constraint

        style = self._causal.prompt.answer
        if style not in self._constraints:
            self._constraints[style] = build_constraint(self._causal, self._config.decoding)
        return self._constraints[style]


def _bare(sentences: Iterable[Sentence]) -> list[Sentence]:
    return [Sentence(sentence.id, sentence.text) for sentence in sentences]


def _reasons(issues: Sequence[Issue]) -> dict[str, str]:
    reasons: dict[str, str] = {}
    for issue in issues:
        reason = f"{issue.code}: {issue.message}"
        reasons[issue.id] = f"{reasons[issue.id]}; {reason}" if issue.id in reasons else reason
    return reasons


def _unread(
    sentences: Sequence[Sentence], read: Collection[str], reasons: Mapping[str, str], engine: str
) -> Iterator[list[Prediction]]:
    """Yield predictions of sentences that the model does not read: empty texts have no entities, skipped ones fail."""
    left_out = [sentence for sentence in sentences if sentence.id not in read]
    if left_out:
        yield [
            Prediction(one.id, parse="failed" if one.text else "ok", reason=reasons[one.id], engine=engine)
            for one in left_out
        ]
