"""`task=check`: look before training. Nothing is learnt; everything that training would meet is met and shown.

Prints what differs from the defaults, the corpus and its issues, the first encoded example with its labels character
by character, the arithmetic of batches and steps, and a memory estimate: weights and optimizer exactly, activations
by counting what the longest batch of the first epoch keeps for its backward pass (one forward pass on the CPU). Of a
causal model the sample, the prompt and the packs are shown instead (`check_causal`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from omniner import config as configs
from omniner.corpus import sources
from omniner.corpus.sources import Corpus
from omniner.encoding import prompts
from omniner.records import Issue
from omniner.schema import CausalConfig, Config
from omniner.tasks import check_causal, prompting
from omniner.tasks.context import Context, publish_corpus, publish_issues

if TYPE_CHECKING:
    from torch import Tensor, nn

    from omniner.encoding.datamodule import TaggerData
    from omniner.encoding.examples import Example
    from omniner.models.network import Tagger
    from omniner.models.tagger import TaggerModule

log = logging.getLogger("omniner")

_SHOWN = 10  # issues printed; the file lists them all
_MIB = 2**20


def run(context: Context) -> None:
    """Print the whole picture and keep it as `check.txt`."""
    from omniner.encoding.datamodule import TaggerData
    from omniner.models.tagger import TaggerModule
    from omniner.models.training import prepare

    config = context.config
    corpus = sources.load(config.data, None)
    publish_corpus(context, corpus)
    train = corpus.splits["train"]
    if isinstance(config.model, CausalConfig):
        active = corpus.taxonomy.active(train)
        prompting.use_guidance(context, active, corpus.splits["test"])
        prompting.publish(context, prompts.build(config.prompt, active, train))
    module, data = prepare(config, train, corpus.splits["dev"])
    issues = [*corpus.issues, *data.issues]
    publish_issues(context, issues)
    sections: dict[str, Iterable[str]] = {
        "What differs from the defaults": _differences(config),
        "Corpus": _corpus(corpus),
        "Issues": _issues(issues),
    }
    if isinstance(data, TaggerData):
        assert isinstance(module, TaggerModule), "the two come together"
        sections |= _tagger_sections(config, module, data)
    else:
        assert not isinstance(module, TaggerModule), "the two come together"
        sections |= check_causal.sections(config, module, data)
    text = "\n".join(f"== {title}\n" + "".join(f"{line}\n" for line in lines) for title, lines in sections.items())
    context.run.text(text, "check.txt")
    print(text)


def _tagger_sections(config: Config, module: TaggerModule, data: TaggerData) -> dict[str, Iterable[str]]:
    return {
        "First training example, decoded": _example(data.train_examples[0], module.tagger),
        "Batches": _batches(config, data),
        "Memory": _memory(config, module, data),
    }


def _differences(config: Config) -> Iterator[str]:
    changed = configs.differences(config, configs.load([f"task={config.task.name}"]))
    for key, (default, value) in changed.items():
        yield f"{key}: {value!r} (default {default!r})"
    if not changed:
        yield "nothing"


def _corpus(corpus: Corpus) -> Iterator[str]:
    for split, sentences in corpus.splits.items():
        entities = sum(len(sentence.entities) for sentence in sentences)
        categories = {entity.category for sentence in sentences for entity in sentence.entities}
        lengths = sorted(len(sentence.text) for sentence in sentences)
        yield (
            f"{split:<6} {len(sentences):>8,} sentences  {entities:>9,} entities  {len(categories):>3} categories  "
            f"characters: median {_at(lengths, 0.5)}, 95 % {_at(lengths, 0.95)}, longest {_at(lengths, 1)}"
        )
    if corpus.report != "test":
        yield f"test is the published {corpus.report} split; dev, which chooses the checkpoint, is cut from train"


def _at(values: Sequence[int], share: float) -> int:
    return values[min(len(values) - 1, int(share * len(values)))] if values else 0


def _issues(issues: Sequence[Issue]) -> Iterator[str]:
    yield from map(str, issues[:_SHOWN])
    if len(issues) > _SHOWN:
        yield f"... and {len(issues) - _SHOWN:,} more (issues.jsonl)"
    if not issues:
        yield "none"


def _example(example: Example, tagger: Tagger) -> Iterator[str]:
    """Each character with what stands for it in the model's input, and the tag to learn."""
    from omniner.encoding.tags import TagScheme

    tags = TagScheme(tagger.categories).tags
    yield f"{example.id}: {example.text}"
    yield "inputs: " + ", ".join(f"{name} {list(ids.shape)}" for name, ids in example.inputs.items())
    shown = _shown_inputs(example, tagger)
    for place, tag in enumerate(example.tags.tolist()):
        yield f"  {place:>3}  {example.text[place]}\t{shown[place]:<14}{tags[tag]}"
    if len(example.spans) < len(example.gold):
        yield f"{len(example.gold) - len(example.spans)} of {len(example.gold)} entities cannot be learnt by this head"


def _shown_inputs(example: Example, tagger: Tagger) -> list[str]:
    """For each character the known character, or the token that covers it."""
    from omniner.encoding.alignment import UNCOVERED, CharacterInput, TokenInput

    if isinstance(tagger.inputs, TokenInput):
        tokens = [tagger.inputs.tokenizer.id_to_token(number) for number in example.inputs["tokens"].tolist()]
        places = zip(example.inputs["token_of"].tolist(), example.inputs["place"].tolist(), strict=True)
        return ["(no token)" if place == UNCOVERED else tokens[token] for token, place in places]
    assert isinstance(tagger.inputs, CharacterInput)
    known = set(tagger.inputs.vocabulary.characters)
    return ["known" if character in known else "[UNK]" for character in example.text[: example.length]]


def _planned(config: Config, data: TaggerData) -> list[list[Example]]:
    """The batches of the first epoch."""
    from omniner.encoding.batching import plan

    examples = data.epoch_examples(0)
    lengths = [example.length for example in examples]
    batches = plan(lengths, config.trainer.batch_size, config.seed, 0)
    return [[examples[position] for position in positions] for positions in batches]


def _batches(config: Config, data: TaggerData) -> Iterator[str]:
    trainer, batches = config.trainer, _planned(config, data)
    steps, real = len(batches), sum(example.length for batch in batches for example in batch)
    padded = sum(len(batch) * max(example.length for example in batch) for batch in batches)
    total = steps * trainer.max_epochs
    if trainer.max_steps >= 0:
        total = min(total, trainer.max_steps)
    yield f"{len(data.train_examples):,} sentences in steps of {trainer.batch_size}: {steps:,} steps an epoch"
    yield f"{total:,} steps in at most {trainer.max_epochs} epochs, the first {round(total * trainer.warmup):,} warm up"
    yield f"{trainer.max_epochs // trainer.eval_every} evaluations on {len(data.dev_examples):,} dev sentences"
    yield f"padding: {1 - real / padded:.1%} of {padded:,} positions an epoch"


def _memory(config: Config, module: TaggerModule, data: TaggerData) -> Iterator[str]:
    from omniner.encoding.batching import collate

    weights = sum(parameter.numel() for parameter in module.parameters())
    trained = sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)
    copies = 3 + (config.trainer.weight_average > 0)  # gradient, AdamW's two moments, averaged weights
    fixed = 4 * (weights + copies * trained)
    longest = max(_planned(config, data), key=lambda batch: len(batch) * max(example.length for example in batch))
    batch = collate(longest, 0, 1)
    kept = kept_for_backward(module, lambda: module.tagger.loss(batch))
    yield f"parameters: {weights:,}, of which {trained:,} are trained"
    yield f"weights, gradients, optimizer, average: {fixed / _MIB:,.1f} MiB in 32 bit"
    yield f"activations of the largest batch {list(batch.mask.shape)}: {kept / _MIB:,.1f} MiB in 32 bit"
    yield f"together: about {(fixed + kept) / _MIB:,.0f} MiB, beside what torch itself takes"


def kept_for_backward(module: nn.Module, compute_loss: Callable[[], Tensor]) -> int:
    """Bytes of the distinct tensors that autograd keeps between the forward and the backward pass of one step."""
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
