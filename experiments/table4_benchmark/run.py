"""Several models on one corpus, and precision, recall and F1 of each by primary, as the paper's Table 4 has them.

    python experiments/table4_benchmark/run.py                                     # CPU scale
    python experiments/table4_benchmark/run.py --scale paper --models qwen2_0_5b,qwen2_1_5b,qwen2_7b

A sweep with a child per model, then a comparison with the first of them. Further overrides go to both.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from paper import printed as tables
from paper import steps

MODELS = {
    "cpu": "char_bilstm,bert_tiny,qwen2_tiny",
    "paper": "qwen2_0_5b,qwen2_1_5b,qwen2_7b",
}


def plan(experiment: str, models: list[str], jobs: int, further: list[str]) -> list[steps.Step]:
    """The sweep, whose children write to outputs/<experiment>/<model>, and the comparison."""
    choice = f"experiment={experiment}"
    folders = {model: Path("outputs") / experiment / model for model in models}
    children = [(folder, [choice, f"model={model}", *further]) for model, folder in folders.items()]
    swept = [choice, f"model={','.join(models)}", *further]
    sweep = steps.Step(["-m", *steps.side_by_side(jobs), *swept], children)
    named = ",".join(f'"{model}={folder}"' for model, folder in folders.items())
    overrides = ["task=compare", f"runs=[{named}]", choice, *further]
    compare = steps.single(Path("outputs") / experiment / "compare", overrides, list(folders.values()))
    return [sweep, compare]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", choices=sorted(MODELS), default="cpu")
    parser.add_argument("--models", help="choices of conf/model, with commas")
    parser.add_argument("--jobs", type=int, default=1, help="training runs side by side")
    parser.add_argument("further", nargs="*", help="overrides of both commands")
    given = parser.parse_args()
    steps.stop_politely()
    models = (given.models or MODELS[given.scale]).split(",")
    sweep, compare = plan(f"table4_{given.scale}", models, given.jobs, given.further)
    steps.run(sweep)
    steps.run(compare)
    place = compare.makes[0][0]
    paper = tables.read()
    print("\nPrecision / recall / F1 by primary, the whole category right:\n")
    print(tables.primary_table(paper, place / "tables" / "compare_primaries.csv", models))
    print(f"\nAll of it: {place}/comparison.html")


if __name__ == "__main__":
    main()
