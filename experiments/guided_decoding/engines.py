"""What a constraint costs per sentence: the automaton here against llguidance with the same grammar, on gold answers.

Both walk along the gold answers of the built-in corpus: a state is made for each sentence, and for each token the
forbidden logits of one row are set to -inf and the gold token is taken. Each round runs both in turn; a ratio is taken
per round. The tokenizer is that of a folder.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

from omniner.answers import render_answer
from omniner.config import compose
from omniner.corpus import sources
from omniner.llm.chat_tokenizer import ChatTokenizer
from omniner.llm.decoding.constraint import AnswerConstraint

Walk = Callable[[str, list[int], torch.Tensor], int]


def ours(constraint: AnswerConstraint) -> Walk:
    def walk(text: str, tokens: list[int], logits: torch.Tensor) -> int:
        state, sure, forced = constraint.start(text, 10_000), 0, 0
        for at, token in enumerate(tokens):
            sure = max(sure, at + len(state.forced()))
            forced += at < sure
            constraint.mask([state], logits)
            state.advance(token)
        return forced

    return walk


def theirs(chat: ChatTokenizer, categories: list[str]) -> Walk:
    import llguidance.hf
    import llguidance.torch

    tokenizer = llguidance.hf.from_tokenizer(chat.tokenizer, eos_token=chat.end[0])
    names = " | ".join(json.dumps(f'{name}"]', ensure_ascii=False) for name in categories)
    rules = f"""%llguidance {{}}
start: "[]" | "[" pair (", " pair)* "]"
pair: "[\\"" SPAN "\\", \\"" CATEGORY
CATEGORY: {names}
"""
    mask = llguidance.torch.allocate_token_bitmask(1, tokenizer.vocab_size)
    llguidance.torch.apply_token_bitmask_inplace(torch.zeros(1, tokenizer.vocab_size), mask)  # compiles it: 15 s

    def walk(text: str, tokens: list[int], logits: torch.Tensor) -> int:
        pieces = json.dumps([json.dumps(char, ensure_ascii=False)[1:-1] for char in text])
        grammar = f'{rules}SPAN: %regex {{"substring_chunks": {pieces}}} & /(.|\\n)+/\n'
        state, sure, forced = llguidance.LLMatcher(tokenizer, grammar), 0, 0
        for at, token in enumerate(tokens):
            sure = max(sure, at + len(state.compute_ff_tokens()))
            forced += at < sure
            llguidance.torch.fill_next_token_bitmask(state, mask, 0)
            llguidance.torch.apply_token_bitmask_inplace(logits, mask)
            if not state.consume_token(token):
                raise AssertionError(f"{text!r}: {state.get_error()}")
        return forced

    return walk


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tokenizer", type=Path, help="folder of a tokenizer with a chat template")
    parser.add_argument("--sentences", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    from transformers import AutoTokenizer

    sizes = "{" + f"train: {options.sentences}, dev: 1, test: 1" + "}"
    corpus = sources.load_corpus(compose.load(["model=qwen2_tiny", f"data.size={sizes}"]).data, None)
    sentences = corpus.splits["train"]
    categories = corpus.taxonomy.active(sentences)
    chat = ChatTokenizer(AutoTokenizer.from_pretrained(options.tokenizer), None)
    begin = time.process_time()
    constraint = AnswerConstraint(chat, categories, "official")
    print(f"{len(categories)} categories, {len(chat.tokenizer)} tokens; the constraint is made in", end=" ")
    print(f"{time.process_time() - begin:.1f} CPU s", flush=True)
    walks = {"here": ours(constraint), "llguidance": theirs(chat, list(categories))}
    answers = [[*chat.answer_ids(render_answer(one.entities, "official")), chat.end[0]] for one in sentences]
    logits = torch.zeros(1, len(chat.tokenizer))
    spent: dict[str, list[float]] = {name: [] for name in walks}
    for _ in range(options.rounds):
        for name, walk in walks.items():
            forced, begin = 0, time.process_time()
            for one, tokens in zip(sentences, answers, strict=True):
                forced += walk(one.text, tokens, logits)
            spent[name].append(1e3 * (time.process_time() - begin) / len(sentences))
            if len(spent[name]) == 1:
                share = forced / sum(map(len, answers))
                print(f"{name}: {100 * share:.1f} % of the tokens of gold answers are forced", flush=True)
    for name, times in spent.items():
        ratios = [other / own for other, own in zip(spent["llguidance"], times, strict=True)]
        print(f"{name}: {statistics.median(times):.2f} CPU ms per sentence, llguidance / this", end=" ")
        print(f"{min(ratios):.1f} / {statistics.median(ratios):.1f} / {max(ratios):.1f}")


if __name__ == "__main__":
    main()
