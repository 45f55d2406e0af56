"""`task=chat`: type a sentence, see its entities (and the raw answer of a language model).

The model is chosen as in `task=predict`: a run or a checkpoint (`checkpoint=`), an untuned causal model, or a server.
It is loaded once. Empty lines are skipped; Ctrl-D or Ctrl-C ends. Lines from a pipe are answered in the same way.
Sentences and answers are saved in `predictions.jsonl`.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator

from omniner.errors import Stopped, UserError
from omniner.files import append_lines
from omniner.predicting.engines import ENGINES, needs_checkpoint
from omniner.progress import show
from omniner.records import Sentence, prediction_to_json, to_line
from omniner.runs.context import Context, Input, Task, always, never
from omniner.runs.folder import GUIDANCE_COPY, PREDICTIONS
from omniner.tasks.labelling import choose_model, decode_piped, marked_line

PROMPT = "> "


def run(context: Context) -> None:
    """Load the model, then answer line by line."""
    model, config = choose_model(context, reported=())
    predict = model.open(config)
    show("Type a sentence; Ctrl-D ends.", sys.stderr)
    for number, text in enumerate(_typed_lines(), 1):
        sentence = Sentence(str(number), text)
        try:
            prediction = next(one for batch in predict([sentence], frozenset()) for one in batch)
        except UserError as error:  # about this sentence only; the next one may work
            show(f"error: {error}", sys.stderr)
            continue
        append_lines(context.folder / PREDICTIONS, [to_line(prediction_to_json(prediction, text))])
        show(marked_line(sentence, prediction))
        if prediction.raw:
            show(f"  {prediction.raw}")


def _typed_lines() -> Iterator[str]:
    """Yield the lines typed or piped in until they end, without empty ones."""
    asking = sys.stdin.isatty()
    for number in itertools.count(1):
        try:
            line = input(PROMPT) + "\n" if asking else decode_piped(sys.stdin.buffer.readline(), number)
        except Stopped:
            raise
        except (EOFError, KeyboardInterrupt):
            return
        if not line:
            return
        if text := line.strip():
            yield text


TASK = Task(
    name="chat",
    description=__doc__,
    run=run,
    label=lambda config: ["chat"],
    inputs=[Input("checkpoint", required=needs_checkpoint, accepts=always)],
    outputs=(PREDICTIONS, GUIDANCE_COPY),
    prompts=True,
    uses_model=lambda config: ENGINES[config.decoding.engine].local_weights and not config.checkpoint,
    splits=lambda config: () if config.checkpoint else ("train",),
    tracked=never,
)
