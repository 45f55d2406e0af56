"""Guided decoding: what it promises, on random weights; what it costs and gains, on a model that has learnt a little.

First part: 1,000 sentences are answered by a model with random weights, the worst there is. Every answer must be whole,
readable as it is, of known categories and of words of its sentence. Free decoding of such a model never ends by itself;
its answers are ended where the guided ones ended, so that both write as many tokens.

Second part: a model trained here for some steps, or a checkpoint, answers freely, guided with each token chosen by the
model, and guided with forced tokens taken without asking it. Each round runs all three in turn; ratios are taken per
round.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from omniner.answers import prediction_from_answer
from omniner.config import compose
from omniner.corpus import sources
from omniner.llm.decoding.constraint import AnswerConstraint, Constraint, ConstraintState
from omniner.llm.decoding.decoder import Answer, Decoder, DecodingRequest
from omniner.llm.language_model import CausalModel, build_causal_model, load_causal_model
from omniner.llm.prompts import build_prompt
from omniner.llm.samples import PromptEncoder, Sample
from omniner.llm.training.packs import pack_step, suffix_length
from omniner.llm.training.shared_prefix import attach_attention, detach_attention, pack_loss
from omniner.records import Sentence
from omniner.training.plans import TrainLoader

BATCH, WARM_UP, RATE = 32, 20, 3e-3  # of the training here: sentences a step, steps, learning rate


class Task:
    """A model, its sentences and their requests."""

    def __init__(self, model: CausalModel, sentences: Sequence[Sentence], config: Any) -> None:
        self.causal = model
        encoder = PromptEncoder(model.chat, model.prompt, config.encoding)
        self.samples, _ = encoder.encode(sentences)
        self.prefix = self.samples[0].prompt[: encoder.prefix_length(self.samples)]
        self.requests = [DecodingRequest(sample.id, sample.prompt, sample.text) for sample in self.samples]
        self.decoding = dataclasses.replace(config.decoding, max_new_tokens=256)
        self.constraint = AnswerConstraint(model.chat, model.prompt.categories, model.prompt.answer)

    def decode(self, constraint: Constraint | None) -> tuple[dict[str, Answer], float, int]:
        """Answers by id, CPU seconds, and forward calls."""
        calls = 0

        def count(*_: Any) -> None:
            nonlocal calls
            calls += 1

        hook = self.causal.model.register_forward_hook(count)
        begin = time.process_time()
        found = Decoder(self.causal.model, self.causal.chat, self.prefix, self.decoding, constraint, 0).run(
            self.requests
        )
        answers = {answer.id: answer for batch in found for answer in batch}
        hook.remove()
        return answers, time.process_time() - begin, calls


class OneByOne:
    """A constraint whose forced tokens are chosen by the model like all others."""

    def __init__(self, inner: AnswerConstraint) -> None:
        self.inner, self.mask = inner, inner.mask

    def start(self, text: str, budget: int) -> ConstraintState:
        """Begin an answer of the inner constraint, without forced tokens."""
        state = self.inner.start(text, budget)
        state.forced = list  # type: ignore[method-assign]  # nothing
        return state


class EndAfter:
    """A constraint that only ends answers after given numbers of tokens."""

    def __init__(self, lengths: dict[str, int], end: int) -> None:
        self.lengths, self.end = lengths, end

    def start(self, text: str, budget: int) -> Countdown:
        """The length of this sentence's answer."""
        return Countdown(self.lengths[text] + 1)

    def mask(self, states: Sequence[Countdown], logits: Tensor) -> None:
        """The end token where it is due, and only there."""
        due = torch.tensor([state.left == 1 for state in states])
        logits[:, self.end] = torch.where(due, torch.inf, -torch.inf)


@dataclasses.dataclass
class Countdown:
    """How many tokens of an answer are left, the one that ends it included."""

    left: int
    stopped: bool = False
    ended: str = ""  # never early

    def advance(self, token: int) -> None:
        """One less."""
        self.left -= 1

    def forced(self) -> list[int]:
        """Nothing is."""
        return []


def judge(task: Task, answers: dict[str, Answer]) -> dict[str, float]:
    """Shares of good answers and pairs, in per cent, and micro F1 of distinct pairs."""
    whole = strict = pairs = known = verbatim = hits = predicted = gold = 0
    categories = set(task.causal.prompt.categories)
    for sample in task.samples:
        answer = answers[sample.id]
        read = prediction_from_answer(Sentence(sample.id, sample.text), answer.text, "", "")
        whole += answer.end == "model"
        strict += read.parse == "ok" and isinstance(json.loads(answer.text), list)
        pairs += len(read.entities)
        known += sum(entity.category in categories for entity in read.entities)
        verbatim += sum(bool(entity.text) and entity.text in sample.text for entity in read.entities)
        wanted = {entity[:2] for entity in sample.gold}
        found = {entity[:2] for entity in read.entities}
        hits, predicted, gold = hits + len(wanted & found), predicted + len(found), gold + len(wanted)
    count = len(task.samples)
    shares = {"whole": whole / count, "readable": strict / count}
    shares |= {"known categories": known / max(pairs, 1), "words of the sentence": verbatim / max(pairs, 1)}
    return {name: 100 * share for name, share in shares.items()} | {"F1": 200 * hits / max(predicted + gold, 1)}


def show(name: str, task: Task, answers: dict[str, Answer], seconds: float, calls: int) -> None:
    tokens = sum(len(answer.tokens) + 1 for answer in answers.values())
    shares = ", ".join(f"{name} {value:.1f}" for name, value in judge(task, answers).items())
    rates = f"{len(answers) / seconds:6.1f} sentences and {tokens / seconds:.0f} tokens per CPU s"
    print(f"  {name:28} {rates}, {calls} calls")
    print(f"  {'':28} {tokens / len(answers):.1f} tokens per sentence; {shares}", flush=True)


def on_random_weights(task: Task) -> None:
    print("\nrandom weights", flush=True)
    answers, seconds, calls = task.decode(task.constraint)
    show("guided", task, answers, seconds, calls)
    lengths = {request.text: len(answers[request.id].tokens) for request in task.requests}
    free = EndAfter(lengths, task.constraint.stop)
    show("free, ended at these lengths", task, *task.decode(free))
    forced = [forced_tokens(task.constraint, sample.text, answers[sample.id].tokens) for sample in task.samples]
    tokens = sum(len(answer.tokens) + 1 for answer in answers.values())
    print(f"  forced: {100 * sum(forced) / tokens:.1f} % of the tokens")


def forced_tokens(constraint: AnswerConstraint, text: str, tokens: Sequence[int]) -> int:
    """How many tokens of an answer, its stop token included, the constraint would take without asking the model."""
    state, forced, sure = constraint.start(text, 10_000), 0, 0
    for at, token in enumerate([*tokens, constraint.stop]):
        ahead = state.forced()
        sure = max(sure, at + len(ahead))
        forced += at < sure
        state.advance(token)
    return forced


def on_a_trained_model(task: Task, rounds: int) -> None:
    contestants = {
        "free": None,
        "guided, one by one": OneByOne(task.constraint),
        "guided, forced together": task.constraint,
    }
    spent: dict[str, list[float]] = {name: [] for name in contestants}
    answers: dict[str, dict[str, Answer]] = {}
    calls: dict[str, int] = {}
    for _ in range(rounds):
        for name, constraint in contestants.items():
            answers[name], seconds, calls[name] = task.decode(constraint)
            spent[name].append(seconds)
    print(f"\ntrained model, {rounds} rounds", flush=True)
    for name in contestants:
        show(name, task, answers[name], statistics.median(spent[name]), calls[name])
        ratios = [free / own for free, own in zip(spent["free"], spent[name], strict=True)]
        print(f"  {'':28} speed against free {min(ratios):.2f} / {statistics.median(ratios):.2f} / {max(ratios):.2f}")
    free, single, together = answers.values()
    forced = sum(forced_tokens(task.constraint, one.text, single[one.id].tokens) for one in task.samples)
    tokens = sum(len(answer.tokens) + 1 for answer in single.values())
    print(f"  forced: {100 * forced / tokens:.1f} % of the tokens")
    print(f"  same answers, free and guided one by one: {same(free, single)} of {len(free)}")
    print(f"  same answers, one by one and together: {same(single, together)} of {len(free)}")


def same(one: dict[str, Answer], two: dict[str, Answer]) -> int:
    return sum(one[key].tokens == two[key].tokens for key in one)


def train(model: CausalModel, samples: list[Sample], prefix_length: int, steps: int, pack_tokens: int) -> None:
    """Teach the model for a number of steps."""
    attach_attention(model.model, "cascade")
    model.model.train()
    done = 0
    optimizer = torch.optim.AdamW(model.model.parameters(), lr=RATE, weight_decay=0.01)
    loader = TrainLoader(
        lambda epoch: samples,
        len(samples),
        length=suffix_length(prefix_length),
        batch_size=BATCH,
        seed=0,
        make_step=lambda chosen: pack_step(chosen, prefix_length, pack_tokens, rank=0, ranks=1),
        steps_done=lambda: done,
    )
    begin = time.process_time()
    while done < steps:
        for step in loader:
            for group in optimizer.param_groups:
                group["lr"] = RATE * min(1, (done + 1) / WARM_UP) * max(0.05, 1 - done / steps)
            losses = [pack_loss(model.model, pack) / step.answer_tokens for pack in step.packs]
            sum(losses, torch.zeros(())).backward()
            torch.nn.utils.clip_grad_norm_(model.model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            done += 1
            if done == steps:
                break
    loss = float(sum(losses, torch.zeros(())).detach())
    print(f"\ntrained {steps} steps of {BATCH} sentences in {time.process_time() - begin:.0f} CPU s, loss {loss:.3f}")
    detach_attention(model.model)
    model.model.eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sentences", type=int, default=1000)
    parser.add_argument("--trained-sentences", type=int, default=250, help="of the second part")
    parser.add_argument("--steps", type=int, default=400, help="optimizer steps of the training here")
    parser.add_argument("--checkpoint", type=Path, help="checkpoints/best of a run, in place of a training here")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    sizes = "{" + f"train: 2000, dev: 1, test: {options.sentences}" + "}"
    small = [f"model.architecture.{name}={value}" for name, value in SIZES.items()]
    config = compose.load(["model=qwen2_tiny", f"data.size={sizes}", *small])
    corpus = sources.load_corpus(config.data, None)
    learnt, asked = corpus.splits["train"], corpus.splits["test"]
    prompt = build_prompt(config.prompt, corpus.taxonomy.active(learnt), learnt)
    texts = [sentence.text for sentence in learnt]
    model = build_causal_model(config.model, config.tuning, prompt, texts, torch.float32, config.seed, trains=False)
    weights = sum(weight.numel() for weight in model.model.parameters()) / 1e6
    print(f"{weights:.1f} M parameters, {len(model.chat.tokenizer)} tokens; torch {torch.__version__}")
    on_random_weights(Task(model, asked, config))
    if options.checkpoint is not None:
        model = load_causal_model(options.checkpoint, torch.float32, "cpu")
    else:
        known = Task(model, learnt, config)
        train(model, known.samples, len(known.prefix), options.steps, config.tuning.pack_tokens)
    on_a_trained_model(Task(model, asked[: options.trained_sentences], config), options.rounds)


SIZES = {"hidden_size": 192, "num_hidden_layers": 3, "intermediate_size": 512}

if __name__ == "__main__":
    main()
