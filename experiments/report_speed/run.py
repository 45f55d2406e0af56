"""How soon the report of a large run can be used in a browser, and how large its file is.

    python experiments/report_speed/run.py [--sentences 19557] [--wrong 0.57] [--times 5] [--keep report.html]

A made-up run on generated sentences is scored as `task=score` does it, its page is opened in headless Chromium (by the
driver of the tests) several times, and the filters of the example browser are set. Needs Chromium on PATH and the
package `websocket-client`.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parents[2] / "tests" / "helpers"))

import browser

from omniner.config import compose
from omniner.corpus.sample import generate_sample
from omniner.records import Entity, Prediction, Sentence
from omniner.report import run_page, tables
from omniner.scoring.metrics import ScoreResult
from omniner.scoring.scorer import score_records

# When the page says that it is ready, in ms since the navigation began; installed before any of its scripts.
CLOCK = """
new MutationObserver(() => {
  if (document.documentElement?.dataset.ready) window.readyAt ??= performance.now();
}).observe(document, { subtree: true, childList: true, attributes: true, attributeFilter: ["data-ready"] });
"""
# Sets a filter and waits until the browser has drawn the answer.
FILTER = """(async () => {
  const node = document.querySelectorAll('#browser select, #browser input')[%d];
  const start = performance.now();
  node.value = %s === null ? node.options[1].value : %s;
  node.dispatchEvent(new Event(node.tagName === 'SELECT' ? 'change' : 'input'));
  await new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
  const taken = performance.now() - start;
  const found = document.querySelector('#browser [role=status]').textContent.split(' ')[0];
  node.value = '';
  node.dispatchEvent(new Event('change'));
  node.dispatchEvent(new Event('input'));
  return [taken, found];
})()"""
FILTERS = {
    "type": (0, "null"),
    "primary": (1, "null"),
    "category": (2, "null"),
    "text": (3, "'海'"),
    "text again": (3, "'上'"),
}


def answers(sentences: Sequence[Sentence], wrong: float, seed: int) -> list[Prediction]:
    """Predictions in which this share of the mentions is wrong: missed, cut, of another category, or not alone."""
    draw = random.Random(seed)
    names = sorted({entity.category for sentence in sentences for entity in sentence.entities})
    found = []
    for sentence in sentences:
        said: list[Entity] = []
        for entity in sentence.entities:
            start, end = entity.start or 0, entity.end or 0
            kind = draw.random() / wrong
            if kind < 0.25:
                continue
            if kind < 0.55:
                entity = entity._replace(category=draw.choice(names))
            elif kind < 0.85 and end - start > 1:
                entity = entity._replace(text=sentence.text[start : end - 1], end=end - 1)
            elif kind < 1:
                at = draw.randrange(len(sentence.text))
                said.append(Entity(sentence.text[at : at + 1], draw.choice(names), at, at + 1))
            said.append(entity)
        found.append(Prediction(sentence.id, said))
    return found


def scored(count: int, wrong: float, seed: int) -> ScoreResult:
    sentences = [replace(s, id=f"test-{n}") for n, s in enumerate(generate_sample({"test": count}, seed)["test"])]
    settings = compose.load(["metrics.bootstrap=0"])
    return score_records(sentences, answers(sentences, wrong, seed), settings.metrics, settings.errta)


def page_of(result: ScoreResult, examples: int) -> tuple[str, float]:
    """The report with so many examples of each type, and the CPU seconds it took to write."""
    errta = replace(compose.load([]).errta, examples=examples)
    facts = run_page.RunFacts("report speed", "", {}, "", {})
    curves = {name: [(10 * step, 0.99**step) for step in range(500)] for name in ("train/loss", "val/loss", "val/f1")}
    start = time.process_time()
    text = run_page.render_run_page(result, tables.build_run_tables(result, errta, None, []), facts, curves, errta)
    return text, time.process_time() - start


def opened(file: Path, times: int) -> None:
    """Open the page in fresh browsers; print medians of ms of the clock and of the page's own CPU."""
    ready, cpu, filters = [], [], {name: [] for name in FILTERS}
    for _ in range(times):
        with browser.chromium() as tab:
            tab.call("Performance.enable", timeDomain="threadTicks")
            tab.call("Page.addScriptToEvaluateOnNewDocument", source=CLOCK)
            tab.open(file)
            ready.append(tab.run("window.readyAt"))
            metrics = {one["name"]: one["value"] for one in tab.call("Performance.getMetrics")["metrics"]}
            cpu.append(1000 * metrics["TaskDuration"])
            for name, (place, value) in FILTERS.items():
                taken, found = tab.run(FILTER % (place, value, value))
                filters[name].append((taken, found))
            if tab.errors:
                raise SystemExit(f"errors in the page: {tab.errors}")
    print(f"  usable after {_median(ready)} ms of the clock ({min(ready):.0f}-{max(ready):.0f}), ", end="")
    print(f"{_median(cpu)} ms of CPU in the page's thread")
    for name, rows in filters.items():
        print(f"  filter by {name}: {rows[0][1]} found, drawn after {_median([ms for ms, _ in rows])} ms")


def _median(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.0f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sentences", type=int, default=19_557)
    parser.add_argument("--wrong", type=float, default=0.57)
    parser.add_argument("--times", type=int, default=5)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", type=Path, help="write the page with every error here, to look at")
    options = parser.parse_args()
    result = scored(options.sentences, options.wrong, options.seed)
    errors = len(result.errta.errors)
    print(f"{options.sentences:,} sentences, {result.metrics.micro.support:,} entities, {errors:,} errors")
    for title, examples in (("50 examples of each type (the default)", 50), ("every error in the page", errors)):
        text, seconds = page_of(result, examples)
        print(f"{title}: {len(text.encode()) / 1e6:.1f} MB, written in {seconds:.1f} s of CPU", flush=True)
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "report.html"
            file.write_text(text, encoding="utf-8")
            opened(file, options.times)
    if options.keep:
        options.keep.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
