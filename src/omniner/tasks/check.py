"""`task=check`: inspect a run before training. It goes through everything that training needs, without training.

It prints what differs from the defaults, the corpus and its issues, the first encoded example with its labels character
by character, the numbers of batches and steps, and an estimate of memory. For a causal model it also shows the first
sample as the model sees it, the prompt, the packs, and the memory of each device (`llm.training.memory`) for every
combination that the configuration allows, fastest first. For a tagger, weights and optimizer states are exact, and
activations are measured in one forward pass of the longest batch.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from omniner.config import compose, run_config
from omniner.config.groups import Config
from omniner.config.model_groups import TrainerConfig
from omniner.corpus import sources
from omniner.corpus.sources import Corpus
from omniner.progress import show
from omniner.records import Issue
from omniner.runs.context import Context, Task, always, model_settings
from omniner.runs.folder import GUIDANCE_COPY
from omniner.wording import counted

if TYPE_CHECKING:
    from torch import Tensor, nn

    from omniner.compute.devices import Devices
    from omniner.llm.training.generative_data import GenerativeData, PackStatistics
    from omniner.llm.training.generative_module import GenerativeModule
    from omniner.llm.training.memory import PackSize
    from omniner.taggers.batches import EncodedSentence
    from omniner.taggers.tagger import Tagger
    from omniner.taggers.tagger_module import TaggerData, TaggerModule

log = logging.getLogger("omniner")

_SHOWN = 10  # number of issues printed; `issues.jsonl` lists them all
_MIB = 2**20

Sections = tuple[dict[str, Iterable[str]], list[Issue]]
"""Lines by title of the section, and issues of sentences that could not be encoded."""


def run(context: Context) -> None:
    """Inspect everything that training needs, print it and write it to `check.txt`."""
    config = context.config
    corpus = sources.load_for_training(config.data)
    context.publish_corpus(corpus)
    own, met = _tagger_sections(config, corpus) if config.llm is None else _causal_sections(context, corpus)
    issues = [*corpus.issues, *met]
    context.publish_issues(issues)
    sections: dict[str, Iterable[str]] = {
        "What differs from the defaults": _differences(config),
        "Corpus": _corpus(corpus),
        "Issues": _issues(issues),
        **own,
    }
    text = "\n".join(f"== {title}\n" + "".join(f"{line}\n" for line in lines) for title, lines in sections.items())
    context.publish_text("check.txt", text)
    show(text)


def _tagger_sections(config: Config, corpus: Corpus) -> Sections:
    from omniner.models import prepare_devices, prepare_tagger

    prepare_devices(config)
    module, data = prepare_tagger(config, corpus)
    batches = _first_epoch(config, data)
    return {
        "First training example, decoded": _tagger_example(data.train[0], module.tagger),
        "Batches": _batches(config, data, batches),
        "Memory": _tagger_memory(config, module, batches),
    }, data.issues


def _differences(config: Config) -> Iterator[str]:
    changed = run_config.differences(config, compose.load([f"task={config.task.name}"]))
    for key, (default, value) in changed.items():
        yield f"{key}: {value!r} (default {default!r})"
    if not changed:
        yield "nothing"


def _corpus(corpus: Corpus) -> Iterator[str]:
    for split, sentences in corpus.splits.items():
        entities = sum(len(sentence.entities) for sentence in sentences)
        categories = {entity.category for sentence in sentences for entity in sentence.entities}
        lengths = sorted(len(sentence.text) for sentence in sentences)
        median, most, longest = (_quantile(lengths, share) for share in (0.5, 0.95, 1))
        yield (
            f"{split:<6} {len(sentences):>8,} sentences  {entities:>9,} entities  {len(categories):>3} categories  "
            f"characters: median {median}, 95 % {most}, longest {longest}"
        )
    if corpus.report != "test":
        yield f"test is the published {corpus.report} split; dev, which chooses the checkpoint, is cut from train"


def _quantile(values: Sequence[int], share: float) -> int:
    return values[min(len(values) - 1, int(share * len(values)))] if values else 0


def _issues(issues: Sequence[Issue]) -> Iterator[str]:
    yield from map(str, issues[:_SHOWN])
    if len(issues) > _SHOWN:
        yield f"... and {len(issues) - _SHOWN:,} more (issues.jsonl)"
    if not issues:
        yield "none"


def _tagger_example(example: EncodedSentence, tagger: Tagger) -> Iterator[str]:
    """Yield lines that show each character with its token in the model's input and the tag to learn."""
    from omniner.taggers.heads import TagScheme

    tags = TagScheme(tagger.categories).tags
    yield f"{example.id}: {example.text}"
    yield "inputs: " + ", ".join(f"{name} {list(ids.shape)}" for name, ids in example.inputs.items())
    shown = _shown_inputs(example, tagger)
    for index, tag in enumerate(example.tags.tolist()):
        yield f"  {index:>3}  {example.text[index]}\t{shown[index]:<14}{tags[tag]}"
    if len(example.spans) < len(example.gold):
        lost = len(example.gold) - len(example.spans)
        yield f"this head cannot learn {lost} of {counted(len(example.gold), 'entity')}"


def _shown_inputs(example: EncodedSentence, tagger: Tagger) -> list[str]:
    """Return for each character the token that covers it, or whether a vocabulary of characters knows it."""
    from omniner.taggers.inputs import UNCOVERED, CharacterInput, TokenInput

    if isinstance(tagger.inputs, TokenInput):
        tokens = [tagger.inputs.tokenizer.id_to_token(number) for number in example.inputs["tokens"].tolist()]
        places = zip(example.inputs["token_of"].tolist(), example.inputs["place"].tolist(), strict=True)
        return ["(no token)" if place == UNCOVERED else tokens[token] for token, place in places]
    assert isinstance(tagger.inputs, CharacterInput)
    known = set(tagger.inputs.vocabulary.characters)
    return ["known" if character in known else "[UNK]" for character in example.text[: example.length]]


def _first_epoch(config: Config, data: TaggerData) -> list[list[EncodedSentence]]:
    """Return the batches of the first epoch."""
    from omniner.training.plans import plan_epoch

    examples = data.epoch_examples(0)
    lengths = [example.length for example in examples]
    batches = plan_epoch(lengths, config.trainer.batch_size, config.seed, 0)
    return [[examples[position] for position in positions] for positions in batches]


def _batches(config: Config, data: TaggerData, batches: Sequence[list[EncodedSentence]]) -> Iterator[str]:
    trainer = config.trainer
    steps, real = len(batches), sum(example.length for batch in batches for example in batch)
    padded = sum(len(batch) * max(example.length for example in batch) for batch in batches)
    yield from _length(trainer, len(data.train), steps)
    evaluations = trainer.epochs(steps) // trainer.epochs_between_evaluations(steps)
    yield f"{counted(evaluations, 'evaluation')} on {counted(len(data.dev), 'dev sentence')}"
    yield f"padding: {1 - real / padded:.1%} of {padded:,} positions an epoch"


def _length(trainer: TrainerConfig, sentences: int, steps: int) -> Iterator[str]:
    """Yield lines about the length of training; `steps` is the number of steps per epoch."""
    epochs = trainer.epochs(steps)
    total = min(steps * epochs, trainer.max_steps) if trainer.max_steps >= 0 else steps * epochs
    yield f"{counted(sentences, 'sentence')} in steps of {trainer.batch_size}: {counted(steps, 'step')} an epoch"
    warm = round(total * trainer.warmup)
    yield f"{counted(total, 'step')} in at most {counted(epochs, 'epoch')}, the first {warm:,} warm up"


def _tagger_memory(config: Config, module: TaggerModule, batches: Sequence[list[EncodedSentence]]) -> Iterator[str]:
    from omniner.taggers.batches import collate

    weights = sum(parameter.numel() for parameter in module.parameters())
    trained = sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)
    copies = 3 + (config.trainer.weight_average > 0)  # gradient, AdamW's two moments, averaged weights
    fixed = 4 * (weights + copies * trained)
    longest = max(batches, key=lambda batch: len(batch) * max(example.length for example in batch))
    batch = collate(longest, 0, 1)
    kept = kept_for_backward(module, lambda: module.tagger.loss(batch))
    yield f"parameters: {weights:,}, of which {trained:,} are trained"
    yield f"weights, gradients, optimizer, average: {fixed / _MIB:,.1f} MiB in 32 bit"
    yield f"activations of the largest batch {list(batch.mask.shape)}: {kept / _MIB:,.1f} MiB in 32 bit"
    yield f"together: about {(fixed + kept) / _MIB:,.0f} MiB, beside what torch itself takes"


def kept_for_backward(module: nn.Module, compute_loss: Callable[[], Tensor]) -> int:
    """Return the bytes of the distinct tensors that autograd keeps between the forward and the backward pass.

    Args:
        module: the module; its own parameters do not count.
        compute_loss: runs the forward pass of one step.
    """
    import torch

    own = {parameter.untyped_storage().data_ptr() for parameter in module.parameters()}
    seen: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            seen[storage.data_ptr()] = storage.nbytes()
        return tensor

    module.train()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = compute_loss()
    kept = sum(seen.values())
    del loss
    return kept


def _causal_sections(context: Context, corpus: Corpus) -> Sections:
    from omniner.llm.samples import describe_sample
    from omniner.llm.training.memory import device_memory, plan_training
    from omniner.models import prepare_causal, prepare_devices
    from omniner.tasks.prompting import build_run_prompt, publish_prompt

    config = context.config
    prompt, _ = build_run_prompt(context, corpus, corpus.reported)
    publish_prompt(context, prompt)
    config, devices = plan_training(config, prepare_devices(config))
    room = device_memory(devices)  # before the model takes its part of it
    module, data = prepare_causal(config, devices, corpus, prompt)
    ranks = max(config.trainer.devices, 1) * config.trainer.nodes
    survey = data.pack_statistics(ranks)
    largest = survey.largest if devices.world == ranks else data.pack_statistics(devices.world).largest
    return {
        "First training sample, as the model meets it": list(
            describe_sample(data.train[0], module.causal.chat, len(data.prefix))
        ),
        "Prompt": [
            f"{prompt.name} version {prompt.version} ({prompt.language}, {prompt.answer} answers), hash {prompt.sha}",
            f"{counted(len(prompt.categories), 'category')}; "
            f"{len(data.prefix):,} tokens are the same for every sentence",
        ],
        "Packs": list(_packs(config, data, survey, ranks)),
        "Memory": list(_causal_memory(context.config, devices, module, largest, room)),
    }, data.issues


def _packs(config: Config, data: GenerativeData, survey: PackStatistics, ranks: int) -> Iterator[str]:
    samples = len(data.train)
    yield from _length(config.trainer, samples, survey.steps)
    yield (
        f"{survey.packs:,} packs an epoch on {ranks} process{'es' if ranks > 1 else ''}, "
        f"{samples / survey.packs:.1f} sentences each, the largest of {survey.largest.tokens:,} tokens"
    )
    yield (
        f"{survey.pack_tokens:,} tokens computed instead of {survey.sample_tokens:,} "
        f"({survey.sample_tokens / survey.pack_tokens:.1f} times fewer), {survey.answer_tokens:,} of them learnt"
    )
    yield f"each evaluation answers {counted(len(data.dev), 'dev sentence')}"


def _causal_memory(
    config: Config, devices: Devices, module: GenerativeModule, pack: PackSize, room: float | None
) -> Iterator[str]:
    from omniner.llm.training import memory
    from omniner.pretrained import base_model

    method, parameters = module.causal.method, list(module.model.parameters())
    trained = sum(parameter.numel() for parameter in parameters if parameter.requires_grad)
    yield f"parameters that are trained: {trained:,} ({method})"
    longest = module.causal.longest_answer
    count = memory.MemoryCount(base_model(module.model).config, method, devices, pack, config.decoding, longest)
    yield f"the largest pack has {pack.tokens:,} tokens, {pack.prefix_length:,} of them shared, {pack.answers:,} learnt"
    shown = memory.plans(count, config.tuning, config.trainer.strategy, room)
    for number, plan in enumerate(shown):
        which = "or, where that is too much" if number else "each device"
        yield f"{which}: {plan.needs}; {plan}, {plan.slots} answers side by side"
    yield "beside what torch itself takes, about 0.5 GiB on a GPU"


TASK = Task(
    name="check",
    description=__doc__,
    run=run,
    label=lambda config: ["check", config.model.name, config.data.name],
    outputs=["check.txt", "prompt.txt", GUIDANCE_COPY],
    prompts=True,
    uses_model=always,
    splits=lambda config: sources.LABELED,
    settings=model_settings,
)
