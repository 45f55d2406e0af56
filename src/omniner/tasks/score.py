"""`task=score`: score a predictions file of any system. No model, no torch, no GPU.

In: `predictions=` (our `predictions.jsonl`, or `generated_predictions.jsonl` with its own gold) and, where the file
holds no labels, `gold=` or a `gold.jsonl` beside it; out: everything of `tasks.evaluation` in the run's folder.
"""

from __future__ import annotations

from pathlib import Path

from omniner.analysis.scores import predictions as reading
from omniner.analysis.scores.scoring import score_loaded
from omniner.tasks.context import Context, publish_issues
from omniner.tasks.evaluation import Extras, publish


def run(context: Context) -> None:
    """Read, score, publish."""
    config = context.config
    assert config.predictions is not None, "checked by omniner.config"
    gold = Path(config.gold) if config.gold else None
    loaded = reading.read(Path(config.predictions), gold)
    result = score_loaded(loaded, config.metrics, config.errta)
    publish_issues(context, result.issues)
    publish(context, result, Extras())
