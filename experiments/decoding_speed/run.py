"""Greedy decoding with one stored prefix and refilled slots against `generate` of transformers on padded batches.

Each round runs every contestant once, in turn, so that all meet the same machine; ratios are taken per round, of wall
time and of CPU seconds. Weights are random, so an answer is ended where the gold answer of its sentence ends, by every
contestant alike; what stands before is the model's own and must be the same tokens.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import time
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from setting import Setting, make
from torch import Tensor

from omniner.llm.decoding.constraint import Constraint
from omniner.llm.decoding.decoder import Decoder

BATCH = 20  # sentences of a padded batch
Answers = dict[str, list[int]]


class Lengths(Constraint):
    """Ends an answer where the gold answer ends, and leaves the rest to the model."""

    def __init__(self, setting: Setting) -> None:
        self.ends = {request.text: len(setting.gold[request.id]) for request in setting.requests}
        self.end = setting.end

    def start(self, text: str, budget: int) -> Countdown:
        """Begin a new answer."""
        return Countdown(self.ends[text])

    def mask(self, states: Sequence[Countdown], logits: Tensor) -> None:
        """Allow only the end where it is due, and anything else where it is not."""
        due = torch.tensor([state.left == 1 for state in states])
        end_at(logits, due, self.end)


@dataclasses.dataclass
class Countdown:
    """Tokens that are left of an answer."""

    left: int
    stopped: bool = False
    ended: str = ""  # never early

    def advance(self, token: int) -> None:
        """Take a token."""
        self.left -= 1

    def forced(self) -> list[int]:
        """Nothing."""
        return []


def end_at(logits: Tensor, due: Tensor, end: int) -> None:
    """Make the end token certain in the rows that are `due` [B], impossible in the others of `logits` [B, V]."""
    logits[:, end] = -torch.inf
    logits[due] = -torch.inf
    logits[due, end] = 0


@torch.no_grad()
def padded(setting: Setting, by_length: bool) -> Answers:
    """`generate` on batches padded on the left."""
    from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

    class EndAt(LogitsProcessor):
        def __init__(self, start: int, lengths: list[int]) -> None:
            self.start, self.lengths = start, torch.tensor(lengths)

        def __call__(self, ids: Tensor, scores: Tensor) -> Tensor:
            end_at(scores, self.lengths == ids.shape[1] - self.start + 1, setting.end)
            return scores

    asked = sorted(setting.requests, key=lambda request: -len(request.prompt)) if by_length else setting.requests
    options = GenerationConfig(do_sample=False, eos_token_id=setting.end, pad_token_id=0, max_new_tokens=512)
    answers = {}
    for at in range(0, len(asked), BATCH):
        batch = asked[at : at + BATCH]
        longest = max(len(request.prompt) for request in batch)
        gaps = [longest - len(request.prompt) for request in batch]
        ids = torch.tensor([[0] * gap + request.prompt for gap, request in zip(gaps, batch, strict=True)])
        mask = torch.tensor([[0] * gap + [1] * (longest - gap) for gap in gaps])
        ends = LogitsProcessorList([EndAt(longest, [len(setting.gold[request.id]) for request in batch])])
        written = setting.model.generate(ids, attention_mask=mask, generation_config=options, logits_processor=ends)
        for request, row in zip(batch, written[:, longest:].tolist(), strict=True):
            answers[request.id] = row[: len(setting.gold[request.id]) - 1]
    return answers


def ours(setting: Setting, slots: int, guide: Any) -> Answers:
    """OmniNER, the prefix computed anew."""
    chat: Any = SimpleNamespace(stops=frozenset({setting.end}), decode=lambda tokens: "")
    config = dataclasses.replace(setting.config, slots=slots, max_new_tokens=512)
    decoder = Decoder(setting.model, chat, setting.prefix, config, guide, 0)
    return {answer.id: answer.tokens for batch in decoder.run(setting.requests) for answer in batch}


def compare(contestants: dict[str, Callable[[], Answers]], rounds: int, sentences: int) -> None:
    """Run the rounds; a line per contestant: its rate, ratios of the first one's time to its own, equal answers."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in contestants}
    answers: dict[str, Answers] = {}
    for _ in range(rounds):
        for name, decode in contestants.items():
            wall, cpu = time.perf_counter(), time.process_time()
            answers[name] = decode()
            times[name].append((time.perf_counter() - wall, time.process_time() - cpu))
    first = next(iter(contestants))
    for name, spent in times.items():
        line = f"{name:44} {sentences / statistics.median(wall for wall, _ in spent):5.1f} sentences/s"
        for unit, which in (("wall", 0), ("CPU", 1)):
            ratios = [theirs[which] / own[which] for theirs, own in zip(times[first], spent, strict=True)]
            line += f", {unit} {min(ratios):.1f} / {statistics.median(ratios):.1f} / {max(ratios):.1f}"
        same = sum(answers[name][key] == tokens for key, tokens in answers[first].items())
        print(f"{line}, {same} of {sentences} equal", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sentences", type=int, default=120)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--prompt", choices=["base", "errta", "fewshot"], default="base")
    parser.add_argument("--tokenizer", help="folder of a tokenizer, in place of one made from the corpus")
    options = parser.parse_args()
    torch.set_num_threads(1)
    import transformers

    setting = make(options.sentences, options.layers, options.prompt, options.tokenizer)
    print(f"{setting}; torch {torch.__version__}, transformers {transformers.__version__}, {options.rounds} rounds")
    print("\nratios to the first line, min / median / max over the rounds", flush=True)
    lengths = Lengths(setting)
    contestants: dict[str, Callable[[], Answers]] = {
        f"generate, padded, batches of {BATCH}": lambda: padded(setting, by_length=False),
        f"generate, padded, batches of {BATCH}, sorted": lambda: padded(setting, by_length=True),
        f"OmniNER, {BATCH} slots": lambda: ours(setting, BATCH, lengths),
        "OmniNER, 64 slots": lambda: ours(setting, 64, lengths),
    }
    compare(contestants, options.rounds, options.sentences)


if __name__ == "__main__":
    main()
