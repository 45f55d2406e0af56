"""Answers of a real language model: this program against `generate` of transformers and llama.cpp's server.

All are asked the same prompts, answer greedily and stop by themselves, at 256 tokens at the latest. Each round runs all
of them in turn; ratios are taken per round, of CPU seconds of the process that computes. llama.cpp is asked by 16
clients at once and keeps its prompts between requests; a first round that fills its store does not count, while this
program computes the shared instruction anew in every round.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import contextlib
import dataclasses
import json
import statistics
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import psutil
import torch

from omniner.answers import prediction_from_answer
from omniner.config import compose
from omniner.corpus import sources
from omniner.llm.chat_tokenizer import ChatTokenizer
from omniner.llm.decoding.constraint import AnswerConstraint, Constraint
from omniner.llm.decoding.decoder import Decoder, DecodingRequest
from omniner.llm.loading import load_pretrained
from omniner.llm.prompts import build_prompt
from omniner.llm.samples import PromptEncoder
from omniner.records import Sentence

BATCH, SLOTS, LONGEST = 20, 16, 256  # sentences of a padded batch; llama.cpp's clients; tokens
Texts = dict[str, str]


class Task:
    """A model, and the prompts of some sentences of CLUENER's dev split."""

    def __init__(self, folder: Path, prompt: str, sentences: int) -> None:
        size = f"data.limit={{train: 200, dev: 100, test: {sentences}}}"
        config = compose.load(["model=causal_path", f"model.path={folder}", f"prompt={prompt}", "data=cluener", size])
        splits = sources.load_corpus(config.data, None)
        self.sentences = list(splits.splits["test"])
        self.prompt = build_prompt(config.prompt, splits.active, splits.splits["train"])
        self.model, tokenizer = load_pretrained(str(folder), torch.bfloat16)
        self.model.eval()
        self.chat = ChatTokenizer(tokenizer, None)
        encoder = PromptEncoder(self.chat, self.prompt, config.encoding)
        self.samples, _ = encoder.encode(self.sentences)
        self.prefix = self.samples[0].prompt[: encoder.prefix_length(self.samples)]
        self.decoding = dataclasses.replace(config.decoding, max_new_tokens=LONGEST)
        self.constraint = AnswerConstraint(self.chat, self.prompt.categories, self.prompt.answer)

    def ours(self, constraint: Constraint | None) -> Texts:
        """This program's answers by id."""
        requests = [DecodingRequest(one.id, one.prompt, one.text) for one in self.samples]
        decoder = Decoder(self.model, self.chat, self.prefix, self.decoding, constraint, 0)
        return {answer.id: answer.text for batch in decoder.run(requests) for answer in batch}

    @torch.no_grad()
    def padded(self) -> Texts:
        """The answers of `generate`, on batches padded on the left, the longest prompts first."""
        from transformers import GenerationConfig

        stops = sorted(self.chat.stops)
        options = GenerationConfig(
            do_sample=False, eos_token_id=stops, pad_token_id=stops[0], max_new_tokens=LONGEST, repetition_penalty=1.0
        )
        asked = sorted(self.samples, key=lambda sample: -len(sample.prompt))
        answers = {}
        for at in range(0, len(asked), BATCH):
            batch = asked[at : at + BATCH]
            longest = max(len(sample.prompt) for sample in batch)
            gaps = [longest - len(sample.prompt) for sample in batch]
            ids = torch.tensor([[stops[0]] * gap + one.prompt for gap, one in zip(gaps, batch, strict=True)])
            mask = torch.tensor([[0] * gap + [1] * (longest - gap) for gap in gaps])
            written = self.model.generate(ids, attention_mask=mask, generation_config=options)[:, longest:]
            for sample, row in zip(batch, written.tolist(), strict=True):
                end = next((place for place, token in enumerate(row) if token in self.chat.stops), len(row))
                answers[sample.id] = self.chat.decode(row[:end])
        return answers

    def served(self, port: int) -> Texts:
        """The answers of llama.cpp's server to the same token ids."""

        def ask(ids: Sequence[int]) -> str:
            body = {"prompt": list(ids), "n_predict": LONGEST, "temperature": 0, "cache_prompt": True}
            request = urllib.request.Request(
                f"http://127.0.0.1:{port}/completion",
                json.dumps(body).encode(),
                {"Content-Type": "application/json"},
            )
            with urllib.request.urlopen(request, timeout=600) as answer:
                return str(json.load(answer)["content"])

        with concurrent.futures.ThreadPoolExecutor(SLOTS) as clients:
            texts = clients.map(ask, [sample.prompt for sample in self.samples])
            return {sample.id: text for sample, text in zip(self.samples, texts, strict=True)}

    def f1(self, answers: Texts) -> float:
        """Micro F1 of distinct pairs of surface and category, in per cent: are the answers worth the same?."""
        hits = predicted = wanted = 0
        for sample in self.samples:
            read = prediction_from_answer(Sentence(sample.id, sample.text), answers[sample.id], "", "")
            gold, found = ({entity[:2] for entity in entities} for entities in (sample.gold, read.entities))
            hits, predicted, wanted = hits + len(gold & found), predicted + len(found), wanted + len(gold)
        return 200 * hits / max(predicted + wanted, 1)


@contextlib.contextmanager
def llama(program: Path, weights: Path, port: int, context: int) -> Iterator[psutil.Process]:
    """A llama.cpp server on one thread, ready to answer."""
    command = [program, "-m", weights, "--port", port, "-t", 1, "-tb", 1, "-np", SLOTS, "-c", context * SLOTS]
    server = subprocess.Popen(list(map(str, command)), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while True:
            with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/health") as answer:
                if answer.status == 200:
                    break
            if server.poll() is not None:
                raise SystemExit(f"{program} ended with {server.returncode}")
            time.sleep(0.5)
        yield psutil.Process(server.pid)
    finally:
        server.terminate()
        server.wait()


def cpu_seconds(process: psutil.Process) -> float:
    """What a process has computed so far."""
    times = process.cpu_times()
    return times.user + times.system


def main() -> None:
    """Run the rounds, and print a line for each contestant."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path, help="a folder with weights and tokenizer")
    parser.add_argument("--prompt", default="errta")
    parser.add_argument("--sentences", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--llama-server", type=Path, help="llama.cpp's program")
    parser.add_argument("--gguf", type=Path, nargs="*", default=[], help="the same weights for it")
    options = parser.parse_args()
    torch.set_num_threads(1)
    task, own = Task(options.model, options.prompt, options.sentences), psutil.Process()
    lengths = [len(sample.prompt) for sample in task.samples]
    print(f"{len(lengths)} sentences, prompts of {statistics.mean(lengths):.0f} tokens, {len(task.prefix)} shared")
    contestants: dict[str, tuple[Callable[[], Texts], psutil.Process]] = {
        f"generate, padded, batches of {BATCH}": (task.padded, own),
        "OmniNER, free": (lambda: task.ours(None), own),
        "OmniNER, guided": (lambda: task.ours(task.constraint), own),
    }
    with contextlib.ExitStack() as servers:
        for port, weights in enumerate(options.gguf, 18180):
            process = servers.enter_context(llama(options.llama_server, weights, port, max(lengths) + LONGEST))
            contestants[f"llama.cpp, {weights.stem}"] = (lambda port=port: task.served(port), process)
            task.served(port)  # fills its store of prompts
        race(task, contestants, options.rounds)


def race(task: Task, contestants: dict[str, tuple[Callable[[], Texts], psutil.Process]], rounds: int) -> None:
    """Run all contestants in turn, and print their rates and what they are to the first one."""
    spent: dict[str, list[float]] = {name: [] for name in contestants}
    answers: dict[str, Texts] = {}
    for _ in range(rounds):
        for name, (answer, process) in contestants.items():
            before = cpu_seconds(process)
            answers[name] = answer()
            spent[name].append(cpu_seconds(process) - before)
    first = next(iter(contestants))
    for name, seconds in spent.items():
        ratios = [theirs / own for theirs, own in zip(spent[first], seconds, strict=True)]
        tokens = sum(len(task.chat.answer_ids(text)) for text in answers[name].values())
        rate = len(task.samples) / statistics.median(seconds)
        same = sum(answers[name][key] == text for key, text in answers[first].items())
        print(
            f"{name:36} {rate:6.2f} sentences per CPU s, {min(ratios):.2f} - {max(ratios):.2f} times, "
            f"{tokens / len(task.samples):.0f} tokens an answer, F1 {task.f1(answers[name]):.1f}, {same} equal",
            flush=True,
        )


if __name__ == "__main__":
    main()
