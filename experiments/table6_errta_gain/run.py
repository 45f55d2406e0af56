"""Does a prompt made of a model's own errors raise its F1? Four commands for each model, in one go.

    python experiments/table6_errta_gain/run.py                      # CPU scale
    python experiments/table6_errta_gain/run.py --scale paper --models qwen2_0_5b,qwen2_1_5b,qwen2_7b --seeds 1,2,3

Prints the commands as it runs them, and at the end precision, recall and F1 before and after, with the paper's Table 6
beside them. The notes are a teacher's with --teacher, as in the paper, otherwise facts counted in the training split.
What is done is not done again; what was interrupted goes on.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from statistics import mean

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from paper import loop, steps
from paper import printed as tables


def plan(chosen: loop.Options, model: str) -> Iterator[steps.Step]:
    """Baseline, notes, the same with a prompt of these notes, comparison: each to be run before the next is asked for.

    Which seeds are still to be trained depends on what the steps before have made anew.
    """
    before, after = loop.pair(chosen)
    yield loop.train(chosen, model, before)
    yield loop.guide(chosen, model, after)
    yield loop.train(chosen, model, after)
    for seed in chosen.seeds:
        yield loop.compare(chosen, model, (before, after), seed)


def report(chosen: loop.Options, model: str) -> str:
    """The tables of one model."""
    pair = loop.pair(chosen)
    found = {seed: loop.figures(loop.compare(chosen, model, pair, seed).makes[0][0]) for seed in chosen.seeds}
    lines = []
    for seed, runs in found.items():
        row = runs[pair[1]]
        change = f"{row.difference:+.2f} [{row.low:+.2f}, {row.high:+.2f}]"
        lines.append([str(seed), f"{runs[pair[0]].f1:.2f}", f"{row.f1:.2f}", change, f"{row.p:.3f}"])
    ours = {
        name: (mean(getattr(runs[pair[0]], name) for runs in found.values()),
               mean(getattr(runs[pair[1]], name) for runs in found.values()))
        for name in ("precision", "recall", "f1")
    }  # fmt: skip
    means = tables.table(tables.SCORE_COLUMNS, tables.score_rows(tables.read(), ours, model))
    seeds = tables.table(("seed", "F1 before", "F1 after", "difference", "p"), lines)
    return f"\n## {model}: mean over {len(found)} seed(s)\n\n{means}\n\n{seeds}"


def main() -> None:
    chosen = loop.options(loop.parser(__doc__).parse_args())
    steps.stop_politely()
    for model in chosen.models:
        for step in plan(chosen, model):
            steps.run(step)
    for model in chosen.models:
        print(report(chosen, model))


if __name__ == "__main__":
    main()
