"""OmniNER: experiments in fine-grained Chinese named-entity recognition.

The Python interface does what the command line does:

    import omniner

    model = omniner.load("outputs/my_run")           # a run, a checkpoint, a model folder, a server
    model.predict("去喝小满").entities                 # [Entity(text='小满', category='品牌', start=2, end=4)]
    result = omniner.train(["head=span", "seed=7"])   # what `python -m omniner.run head=span seed=7` does
    omniner.score("predictions.jsonl", "gold.jsonl").metrics.micro.f1

Importing the package loads no heavy library; each function imports what it needs. A mistake in a key, a file or a label
raises `UserError` with the line that the command line would print.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from omniner.errors import UserError
from omniner.records import Entity, Issue, Prediction, Sentence
from omniner.version import __version__

if TYPE_CHECKING:
    from omniner.api import Model, Sentences, TrainResult, compare, errta, load, read, score, train, write
    from omniner.frames import frame

__all__ = [
    "Entity",
    "Issue",
    "Model",
    "Prediction",
    "Sentence",
    "Sentences",
    "TrainResult",
    "UserError",
    "__version__",
    "compare",
    "errta",
    "frame",
    "load",
    "read",
    "score",
    "train",
    "write",
]


def __getattr__(name: str) -> Any:
    """Import the interface when one of its functions is first asked for."""
    if name not in __all__:
        raise AttributeError(f"module 'omniner' has no attribute {name!r}")
    from omniner import api, frames

    return getattr(frames if name == "frame" else api, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
