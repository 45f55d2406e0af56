"""What is worth what in a prompt: nothing, generic errors, counted facts about own errors, a teacher's notes on them.

    python experiments/teacher_ablation/run.py --seeds 1,2 --teacher 'teacher=hf teacher.path=FOLDER'
    python experiments/teacher_ablation/run.py --scale paper --seeds 1,2,3 \\
        --teacher 'teacher=openai teacher.url=http://localhost:8000/v1'

Without --teacher that variant is left out. The runs of ../table6_errta_gain are used where they are there. Baselines of
several seeds are compared with each other, too: a difference between prompts counts only beside that one.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from paper import loop, steps
from paper import printed as tables

REFUSED = 2  # exit status of a run whose teacher gave no usable answer at all, or cannot be asked


def run(chosen: loop.Options, model: str) -> list[str]:
    """All commands; the variants that there are."""
    steps.run(loop.train(chosen, model, "plain"))
    steps.run(loop.guide(chosen, model, "counted"))
    variants = list(loop.VARIANTS)
    if not chosen.teacher or steps.run(loop.guide(chosen, model, "teacher"), accept=(0, REFUSED)) == REFUSED:
        variants.remove("teacher")
    for variant in variants[1:]:
        steps.run(loop.train(chosen, model, variant))
    for seed in chosen.seeds:
        steps.run(loop.compare(chosen, model, variants, seed))
    if len(chosen.seeds) > 1:
        steps.run(loop.compare_seeds(chosen, model))
    return variants


def report(chosen: loop.Options, model: str, variants: list[str]) -> str:
    """F1 and errors by variant, and what the teacher said."""
    found = [loop.figures(loop.compare(chosen, model, variants, seed).makes[0][0]) for seed in chosen.seeds]
    rows = []
    for variant in variants:
        runs = [figures[variant] for figures in found]
        changes = [f"{run.difference:+.2f} [{run.low:+.2f}, {run.high:+.2f}]" for run in runs]
        tested = ["", ""] if variant == variants[0] else [", ".join(changes), ", ".join(f"{run.p:.3f}" for run in runs)]
        by_seed = ", ".join(f"{run.f1:.2f}" for run in runs)
        errors = loop.of_seeds([sum(run.errors.values()) for run in runs])
        rows.append([variant, loop.of_seeds([run.f1 for run in runs]), by_seed, errors, *tested])
    columns = ("prompt", "F1, mean", "F1 by seed", "errors", "difference from plain, by seed", "p")
    lines = [f"\n## {model}\n", tables.table(columns, rows)]
    if len(chosen.seeds) > 1:
        lines.append("\nThe same prompt with another seed:\n")
        seeds = loop.figures(loop.compare_seeds(chosen, model).makes[0][0])
        for name, row in list(seeds.items())[1:]:
            lines.append(f"- {name}: {row.difference:+.2f} [{row.low:+.2f}, {row.high:+.2f}], p {row.p:.3f}")
    lines += [f"\n{said(chosen.work / model / f'notes-{name}')}" for name in ("counted", "teacher") if name in variants]
    lines.append("" if "teacher" in variants else "\nteacher: no notes of one, see above")
    return "\n".join(lines)


def said(folder: Path) -> str:
    """Whose notes there are, and what they cost."""
    guidance = json.loads((folder / "guidance.json").read_text(encoding="utf-8"))
    lessons = guidance["lessons"]
    by = sum(lesson["note"]["by"] == guidance["teacher"].get("name") for lesson in lessons)
    kept = f"{by} of {len(lessons)} notes by the teacher, " if guidance["teacher"]["kind"] != "none" else ""
    cost = {key: value for key, value in guidance["teacher"].items() if isinstance(value, int)}
    return f"{folder.name}: {kept}{len(lessons)} kinds of error, {cost or 'nobody asked'}"


def main() -> None:
    chosen = loop.options(loop.parser(__doc__).parse_args())
    steps.stop_politely()
    done = {model: run(chosen, model) for model in chosen.models}
    for model, variants in done.items():
        print(report(chosen, model, variants))


if __name__ == "__main__":
    main()
