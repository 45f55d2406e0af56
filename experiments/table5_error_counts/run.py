"""How many errors of each type does a prompt made of a model's own errors take away?

    python experiments/table5_error_counts/run.py                    # CPU scale
    python experiments/table5_error_counts/run.py --scale paper --seeds 1,2,3

The runs are those of ../table6_errta_gain: what is done there is not done again. Prints the five counts before and
after, as the official counter sorts them, with the paper's Table 5 beside them, and checks in each run that they add up
to the false positives and negatives.
"""

from __future__ import annotations

import sys
from pathlib import Path
from statistics import mean

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from paper import loop, steps
from paper import printed as tables
from table6_errta_gain.run import plan


def report(chosen: loop.Options, model: str) -> str:
    """The table of one model."""
    pair = loop.pair(chosen)
    found = [loop.figures(loop.compare(chosen, model, pair, seed).makes[0][0]) for seed in chosen.seeds]
    kinds = tables.read()["table5"]["before"]
    ours = {
        kind: (mean(runs[pair[0]].errors[kind] for runs in found), mean(runs[pair[1]].errors[kind] for runs in found))
        for kind in kinds
    }
    rows = tables.error_rows(tables.read(), ours)
    return f"\n## {model}: mean over {len(found)} seed(s)\n\n{tables.table(tables.ERROR_COLUMNS, rows)}"


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
