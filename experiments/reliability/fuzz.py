"""Damaged inputs for everything that reads: corpora of every format, answers of models, files of runs, configurations.

    python experiments/reliability/fuzz.py --inputs 1000000 --out outputs/fuzz   # goes on where it was stopped
    python experiments/reliability/fuzz.py --out outputs/fuzz --replay 4711      # one input again, with its traceback

Input number n is made of the seed and n alone: small valid files, written here, of which parts are lost, doubled,
spliced or replaced. A reader may take an input or refuse it with a `UserError`. A failure is any other exception, more
than 2 s of CPU time, or more memory than 1 GB above what the program holds; its bytes and traceback are kept in
`failures/`. Prints a progress line every 20 s, and at the end a line for each reader.
"""

from __future__ import annotations

import argparse
import json
import logging
import random
import resource
import signal
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType, SimpleNamespace
from typing import Any

from omniner.answers import parse_answer
from omniner.config import compose, run_config
from omniner.corpus import adjudication, formats, sources
from omniner.corpus.formats import ReadOptions, WriteOptions
from omniner.corpus.sample import generate_sample
from omniner.errors import UserError
from omniner.files import write_json
from omniner.guidance import lessons, questions, teacher
from omniner.guidance.lessons import (
    CategoryCount,
    Facts,
    Guidance,
    Lesson,
    LessonExample,
    Note,
    SurfaceCount,
    SurfaceErrors,
    SuspectLabel,
)
from omniner.records import Entity, Sentence
from omniner.registry import FORMATS, TEACHERS
from omniner.runs.folder import read_state, read_state_file
from omniner.scoring.predictions import read_predictions
from omniner.tasks.train import read_curves
from omniner.tracking.spool import Spool

SECONDS = 2  # of CPU time for an input
MEMORY = 1 << 30  # bytes above what is held at the start
SAID = 20.0  # seconds between two lines of progress
TEXT = "王芳去了杭州"
NOTE = questions.answer_model("Note", cause=str, rule=str, doubtful=list[int])
QUESTION = questions.Question("q", "s", TEXT, NOTE)
PLACES = [[0, 2, "PER"], [4, 6, "LOC"]]
TAGS = ["B-PER", "I-PER", "O", "O", "B-LOC", "I-LOC"]
GOLD = '{"id": "1", "text": "王芳去了杭州", "entities": [{"text": "王芳", "category": "PER", "start": 0, "end": 2}]}\n'
# Pieces that files of these kinds are made of, and such as no file should hold.
PIECES = [
    *(piece.encode() for piece in (
        "", "\0", "{", "}", "[", "]", "[[", "]]", '"', "'", "\\", "\\u", "\\ud83d", ":", ",", ";", "|", "|||", "\t",
        "\n", "\r\n", "\r", "\u2028", "\ufeff", " ", "null", "true", "NaN", "-1", "0", "1e999", "99999999999999999999",
        "-0.0", "O", "B-PER", "I-", "S-LOC", "-DOCSTART-", "# id", "#Text=", "T1\tPER 0 2\t王芳", '"label"', '"text"',
        '"start"', '"entities"', "王芳", "😀", "e\u0301", "```json", "<think>", "</think>", "&amp;", "<b>", "${a}",
        "!!python/none", "- ", "? ", "&a *a",
    )),
    b"\xff", b"\xed\xa0\xbd", b"\x80\x02}q", b"PK\x03\x04", b"\x1f\x8b",
]  # fmt: skip

Reader = Callable[[Path, random.Random], object]


class TooLong(BaseException):
    """Raised in the middle of an input that takes more CPU time than it may."""


def by_hand() -> dict[str, list[str]]:
    """Small valid files of the formats that are only read, by format."""
    rows = "".join(f"{token}\t{tag}\n" for token, tag in zip(TEXT, TAGS, strict=True))
    spans = [{"start": start, "end": end, "label": label} for start, end, label in PLACES]
    web = "#FORMAT=WebAnno TSV 3.3\n#T_SP=webanno.custom.NamedEntity|value\n\n\n#Text=王芳去\n"
    pairs = [[TEXT[start:end], label] for start, end, label in PLACES]
    one = {"content": TEXT, "result_list": [{"text": "王芳", "start": 0, "end": 2}], "prompt": "PER"}
    return {
        "conll": [rows + "\n" + rows, "-DOCSTART- -X- O O\n\n" + rows.replace("\t", " NN B-NP ")],
        "gliner": [json.dumps([{"tokenized_text": [*TEXT], "ner": [[0, 1, "PER"], [4, 5, "LOC"]]}])],
        "hf_tokens": [json.dumps({"id": "0", "tokens": [*TEXT], "ner_tags": TAGS}) + "\n"],
        "prodigy": [json.dumps({"text": TEXT, "spans": spans, "answer": "accept"}) + "\n"],
        "spacy": [json.dumps([[TEXT, {"entities": PLACES}]])],
        "tagged_lines": [f"{TEXT}\t{' '.join(TAGS)}\n" * 2],
        "text": [f"{TEXT}。\n今天天气好。\n"],
        "uie": [json.dumps(one, ensure_ascii=False) + "\n"],
        "w2ner": [json.dumps([{"sentence": [*TEXT], "ner": [{"index": [0, 1], "type": "PER"}]}])],
        "webanno": [web + "1-1\t0-1\t王\tPER[1]\t\n1-2\t1-2\t芳\tPER[1]\t\n1-3\t2-3\t去\t_\t\n"],
        "entity_table": ["id,text,entity,category,start,end\n1,王芳去杭州,王芳,PER,0,2\n,,杭州,LOC,3,5\n2,好,,,,\n"],
        "word_table": ["Sentence #,Word,POS,Tag\nSentence: 1,王芳,NN,B-PER\n,去,V,O\n,杭州,NN,B-LOC\n"],
        "answers": [
            json.dumps(pairs, ensure_ascii=False),
            "好的，结果如下：\n```json\n" + json.dumps([{"text": w, "label": c} for w, c in pairs]) + "\n```",
            "<think>先看</think>1. 王芳 - PER\n2. 杭州：LOC\n",
            "| 实体 | 类别 |\n|---|---|\n| 王芳 | PER |\n",
            json.dumps({"PER": ["王芳"], "LOC": ["杭州"]}, ensure_ascii=False),
        ],
        "teacher answer": [
            '{"cause": "a", "rule": "b", "doubtful": [1]}',
            '```json\n{"verdict": "usual", "reason": "a"}\n```',
        ],
        "teacher file": [
            json.dumps({"id": QUESTION.sha, "answer": {"cause": "a", "rule": "b", "doubtful": [1]}}) + "\n",
            json.dumps({"id": QUESTION.sha, "answer": '{"cause": "a", "rule": "b", "doubtful": []}'}) + "\n",
        ],
        "predictions": [
            '{"id": "1", "entities": [{"text": "王芳", "category": "PER"}], "raw": "[]"}\n',
            json.dumps({"predict": json.dumps(pairs, ensure_ascii=False), "label": "[]"}, ensure_ascii=False) + "\n",
            json.dumps([{"id": "1", "entities": pairs}], ensure_ascii=False),
        ],
        "run_state.json": ['{"digest": "d", "status": "killed", "task": "train", "started": 1.5, "run_id": ""}'],
        "sweep.json": ['{"digest": "d", "status": "killed", "name": "a", "started": 1.5, "parent": ""}'],
        "curves.jsonl": ['{"step": 1, "train/loss": 0.5}\n{"step": 2, "val/f1": 0.25}\n'],
        "spool": [
            '{"run": "r", "store": "s"}\n'
            '{"seq": 1, "kind": "metrics", "time": 1, "body": {"values": {"a": 1.0}, "step": 2}}\n'
            '{"sent": 1}\n{"seq": 2, "kind": "status", "time": 3, "body": {"status": "FINISHED"}}\n'
        ],
        "teacher ledger": [json.dumps(teacher.TeacherCost(1, 2, 3).to_json()) + "\n" ],
        "guidance.json": [json.dumps(_guidance().to_json(), ensure_ascii=False)],
        "config.yaml": [run_config.to_yaml(compose.load([f"task={task}"])) for task in ("train", "check")],
        "expert answers": [],
    }  # fmt: skip


def _guidance() -> Guidance:
    """Guidance with one lesson and one doubtful label."""
    person = Entity("王芳", "PER", 0, 2)
    facts = Facts([SurfaceCount("王芳", 3, {"PER": 3})], [], [CategoryCount("PER", 3, ["王芳"])])
    example = LessonExample("d1", "missing", TEXT, (person,), (), doubtful=False)
    note = Note("counts", {"zh": "a", "en": "a"}, {})
    lesson = Lesson("missing", "PER", "", 3, {"missing": 3}, note, [SurfaceErrors("王芳", 3)], [example], facts)
    return Guidance(
        source={"run": "r", "name": "a", "folder": "b", "model": "m", "data": "d", "guide": "g"},
        split="dev",
        from_test=False,
        scores={"sentences": 1, "precision": 0.5, "recall": 0.5, "f1": 0.5, "errors": 3},
        types={"missing": 3},
        teacher={"kind": "none"},
        lessons=[lesson],
        suspects=[SuspectLabel("王芳", "LOC", "PER", 0.9, 9, 1, 1, "d1", TEXT, "", "")],
        rest={"clusters": 0, "errors": 0},
    )


def valid_files(place: Path) -> dict[str, list[bytes]]:
    """Small valid files by what reads them; those of formats that can be written are written."""
    sentences = generate_sample({"train": 6}, 3)["train"]
    found = {name: [text.encode() for text in texts] for name, texts in by_hand().items()}
    texts: Any = SimpleNamespace(system="", instruction="找出实体", input="{sentence}", filled_inputs=list)
    options = WriteOptions(prompt=texts, answer=lambda entities: json.dumps([entity[:2] for entity in entities]))
    for name, entry in FORMATS.items():
        if entry.write is not None:
            target = place / f"{name}{entry.suffix}"
            formats.write(target, name, sentences, options)
            written = [target] if target.is_file() else sorted(path for path in target.rglob("*") if path.is_file())
            found.setdefault(name, []).extend(path.read_bytes() for path in written)
    found["expert answers"] = found["label_studio"]
    return found


def read_corpus(name: str) -> Reader:
    """A reader of a format, in some way that a configuration may ask for."""

    def reader(path: Path, draw: random.Random) -> None:
        options = ReadOptions(
            id_prefix="s",
            offsets=draw.choice(["auto", "auto", "half_open", "utf16", "inclusive"]),
            annotator=draw.choice([None, None, None, "1"]),
            tag_column=draw.choice([None, None, None, 1, 2, 9]),
            scheme=draw.choice(["auto", "auto", "auto", "io", "bio", "bioes"]),
            joiner=draw.choice([None, None, "", " "]),
            glued_positions=draw.choice([None, None, False, True]),
        )
        sentences, issues = formats.read(path, draw.choice(["auto", name]), options)
        _check_sound(sentences)
        sources.check_read(path, sentences, issues, 0.5)

    return reader


def _check_sound(sentences: list[Sentence]) -> None:
    """What is read can be written, and offsets are those of their texts."""
    for sentence in sentences:
        sentence.text.encode()
        for entity in sentence.entities:
            entity.category.encode()
            if entity.start is not None and sentence.text[entity.start : entity.end] != entity.text:
                raise AssertionError(f"{entity} in {sentence.text!r}")


def _answer(path: Path, draw: random.Random) -> None:
    categories = draw.choice([(), ("PER", "LOC")])
    parse_answer(path.read_bytes().decode("utf-8", "replace"), categories, TEXT, cut=draw.random() < 0.3)


def _teacher_answer(path: Path, draw: random.Random) -> None:
    questions.read_teacher_answer(path.read_bytes().decode("utf-8", "replace"), QUESTION.answer)


def _teacher_file(path: Path, draw: random.Random) -> None:
    config: Any = SimpleNamespace(teacher=SimpleNamespace(file=str(path), model=None))
    TEACHERS["file"].teach(config, [QUESTION], path)


def _predictions(path: Path, draw: random.Random) -> None:
    gold = path.with_name("gold.jsonl")
    if not gold.exists():
        gold.write_text(GOLD, encoding="utf-8")
    read_predictions(path, draw.choice([gold, gold, None]))


def _named(name: str, read: Callable[[Path], object]) -> Reader:
    """A reader of a file that has to be called so; it gets the path of the file."""

    def reader(path: Path, draw: random.Random) -> None:
        place = path.with_name(name)
        path.replace(place)
        read(place)

    return reader


READERS: dict[str, Reader] = {
    "answers": _answer,
    "teacher answer": _teacher_answer,
    "teacher file": _teacher_file,
    "predictions": _predictions,
    "run_state.json": _named("run_state.json", lambda path: read_state(path.parent)),
    "sweep.json": _named("sweep.json", read_state_file),
    "curves.jsonl": _named("curves.jsonl", lambda path: read_curves(path.parent)),
    "spool": lambda path, draw: Spool(path).close(),
    "teacher ledger": lambda path, draw: teacher.read_ledger(path),
    "guidance.json": lambda path, draw: lessons.read_guidance(path),
    "config.yaml": lambda path, draw: run_config.read(path),
    "expert answers": lambda path, draw: adjudication.read_expert_answers(path),
    **{name: read_corpus(name) for name in FORMATS},
}
SELDOM = {"config.yaml": 0.1}  # share of the draws that are kept: it takes 40 times as long as the others


def make_input(seed: str, number: int, valid: Mapping[str, list[bytes]]) -> tuple[str, bytes, random.Random]:
    """Input `number`: who reads it, its bytes, and what further choices are drawn from."""
    draw = random.Random(f"{seed} {number}")
    name = draw.choice([*READERS])
    while draw.random() > SELDOM.get(name, 1.0):
        name = draw.choice([*READERS])
    data = bytearray(draw.choice(valid[name]))
    if draw.random() < 0.2:
        data = data[: draw.randrange(len(data) + 1)] + draw.choice(valid[draw.choice([*valid])])
    if draw.random() < 0.05:
        data *= draw.randrange(2, 100)
    for _ in range(draw.randrange(8)):
        at = draw.randrange(len(data) + 1)
        if draw.random() < 0.3:  # what stands there comes again elsewhere
            piece = bytes(data[at : at + draw.randrange(40)]) * draw.choice([1, 1, 2, 50])
            at = draw.randrange(len(data) + 1)
        else:
            piece = draw.choice(PIECES) * draw.choice([1, 1, 1, 1, 2, 300])
        data[at : at + draw.choice([0, 0, 1, 2, 5, 30])] = piece
    return name, bytes(data), draw


@contextmanager
def bounded() -> Iterator[None]:
    """Limit the CPU time of the block."""

    def stop(signum: int, frame: FrameType | None) -> None:
        raise TooLong

    signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def read_one(name: str, data: bytes, draw: random.Random, place: Path) -> str:
    """Give an input to its reader; what came of it: taken, refused, or the traceback of a failure."""
    path = place / "input"
    path.write_bytes(data)
    try:
        with bounded():
            READERS[name](path, draw)
    except UserError:
        return "refused"
    except (Exception, TooLong):
        return traceback.format_exc()
    return "taken"


def main() -> None:
    """Read the arguments, go on from where the last process stopped, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=1_000_000)
    parser.add_argument("--seed", default="1")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--replay", type=int, help="the number of one input")
    given = parser.parse_args()
    logging.disable(logging.CRITICAL)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        valid = valid_files(place / "valid")
        if given.replay is not None:
            name, data, draw = make_input(given.seed, given.replay, valid)
            print(f"{name}: {data!r}\n{read_one(name, data, draw, place)}")
        else:
            fuzz(given.out, given.seed, given.inputs, valid, place)


def fuzz(out: Path, seed: str, inputs: int, valid: Mapping[str, list[bytes]], place: Path) -> None:
    """Read the inputs that are left, keep the failures, say how it goes."""
    (out / "failures").mkdir(parents=True, exist_ok=True)
    state_file = out / f"fuzz-{seed}.json"
    state = json.loads(state_file.read_text()) if state_file.exists() else {"done": 0, "counts": {}}
    counts, first = Counter(state["counts"]), state["done"]
    held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (held + MEMORY, held + MEMORY))
    started = said = time.monotonic()
    for number in range(first, inputs):
        name, data, draw = make_input(seed, number, valid)
        result = read_one(name, data, draw, place)
        outcome = result if result in ("taken", "refused") else "failed"
        counts[f"{name}: {outcome}"] += 1
        if outcome == "failed":
            kept = f"{seed}-{number}-{name.replace(' ', '_')}"
            (out / "failures" / f"{kept}.bin").write_bytes(data)
            (out / "failures" / f"{kept}.traceback").write_text(result, encoding="utf-8", errors="replace")
        if (now := time.monotonic()) - said > SAID or number + 1 == inputs:
            said, rate = now, (number + 1 - first) / (now - started)
            failed = sum(count for key, count in counts.items() if key.endswith("failed"))
            left = (inputs - number - 1) / rate / 60
            write_json(state_file, {"done": number + 1, "counts": dict(sorted(counts.items()))})
            print(
                f"{number + 1:,} of {inputs:,}, {rate:,.0f} a second, {failed} failed, {left:.0f} min left", flush=True
            )
    print("| reader | taken | refused | failed |\n| --- | --- | --- | --- |")
    for name in READERS:
        print(f"| {name} | " + " | ".join(f"{counts[f'{name}: {o}']:,}" for o in ("taken", "refused", "failed")) + " |")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"at most {peak:,.0f} MB of memory")


if __name__ == "__main__":
    main()
