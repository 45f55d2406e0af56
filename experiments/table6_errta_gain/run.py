"""Does a prompt made of a model's own errors raise its F1? Four commands for each model, in one go.

    python experiments/table6_errta_gain/run.py                      # CPU scale
    python experiments/table6_errta_gain/run.py --scale paper --models qwen2_0_5b,qwen2_1_5b,qwen2_7b --seeds 1,2,3

Prints the commands as it runs them, and at the end precision, recall and F1 before and after, with the paper's Table 6
beside them. What is done is not done again; what was interrupted goes on.
"""

from __future__ import annotations

import sys
from pathlib import Path
from statistics import mean

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from paper import loop, steps
from paper import printed as tables

PAIR = ("plain", "counted")


def run(chosen: loop.Options, model: str, pair: tuple[str, str] = PAIR) -> None:
    """Baseline, notes, the same with a prompt of these notes, comparison."""
    steps.run(loop.train(chosen, model, pair[0]))
    steps.run(loop.guide(chosen, model, pair[1]))
    steps.run(loop.train(chosen, model, pair[1]))
    for seed in chosen.seeds:
        steps.run(loop.compare(chosen, model, pair, seed))


def report(chosen: loop.Options, model: str, pair: tuple[str, str] = PAIR) -> str:
    """The tables of one model."""
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
        run(chosen, model)
    for model in chosen.models:
        print(report(chosen, model))


if __name__ == "__main__":
    main()
