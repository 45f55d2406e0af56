"""Do tokenizers preserve the boundaries of gold mentions?

    export OMP_NUM_THREADS=1 OMNINER_DATA=<folder of the corpora>
    python experiments/real_models/boundaries.py pretrained/e5_small bert-base-chinese pretrained/qwen05

Encodes the sentences of all splits as a tagger does, and prints a table: for each corpus its mentions, and for each
model how many boundaries of them fall inside a token (the characters on both sides then share the token's state, and
only their places in the token tell them apart), and how many mentions are lost: the model sees no difference at one of
their boundaries, which a run reports as `unclear-boundary`. A model is a hub name, or a folder with a tokenizer; its
weights are not needed. The edges of a text are no boundaries in this sense. Some 40 CPU seconds.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path

from omniner.config import compose
from omniner.corpus import sources
from omniner.llm.loading import load_tokenizer
from omniner.records import Sentence
from omniner.taggers.inputs import UNCOVERED, Inputs, TokenInput

CORPORA = ["cluener", "weibo", "resume", "cmeee", "wnut17", "sample"]
UNLIMITED = 1_000_000  # tokens: nothing is cut


def read_mentions(corpus: str) -> list[tuple[str, list[tuple[int, int]]]]:
    """Give the texts of a corpus, of all splits, each with the places of its distinct mentions."""
    config = compose.load([f"data={corpus}"])
    splits = sources.load_corpus(config.data, None).splits
    return [(sentence.text, places_of(sentence)) for split in splits.values() for sentence in split]


def places_of(sentence: Sentence) -> list[tuple[int, int]]:
    """Give where the mentions of a sentence begin and end, those of each category once."""
    distinct = {(one.category, one.start, one.end) for one in sentence.entities}
    return [(start, end) for _, start, end in distinct if start is not None and end is not None]


def is_inside(inputs: Inputs, at: int) -> bool:
    """Tell whether one token covers the characters on both sides of a place in the text."""
    token_of, place = inputs["token_of"], inputs["place"]
    if not 0 < at < len(place):
        return False
    return token_of[at - 1] == token_of[at] and UNCOVERED not in (place[at - 1], place[at])


def count(reader: TokenInput, texts: Iterable[tuple[str, Sequence[tuple[int, int]]]]) -> tuple[int, int, int]:
    """Count mentions, their boundaries inside a token, and mentions with a boundary that the model cannot see."""
    mentions = inside = lost = 0
    for text, places in texts:
        if not places:
            continue
        inputs = reader.encode(text)
        mentions += len(places)
        inside += sum(is_inside(inputs, at) for place in places for at in place)
        lost += sum(not all(reader.is_clear(inputs, at) for at in place) for place in places)
    return mentions, inside, lost


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", help="hub names or folders")
    parser.add_argument("--corpora", nargs="+", choices=CORPORA, default=CORPORA)
    options = parser.parse_args()
    readers = [TokenInput(load_tokenizer(model).backend_tokenizer, UNLIMITED) for model in options.models]
    print("| corpus | mentions |", *(f"{Path(model).name}: inside, lost |" for model in options.models))
    print("| --- | --- |", *["--- |"] * len(readers))
    for corpus in options.corpora:
        texts = read_mentions(corpus)
        counts = [count(reader, texts) for reader in readers]
        print(
            f"| {corpus} | {counts[0][0]:,} |", *(f"{inside:,}, {lost:,} |" for _, inside, lost in counts), flush=True
        )


if __name__ == "__main__":
    main()
