"""Long use of one store: many runs in one process, a sweep, many processes at once. Is anything lost, what grows?

    python experiments/reliability/long_use.py runs --count 200      # one process, one store
    python experiments/reliability/long_use.py sweep --count 50      # -m with so many children
    python experiments/reliability/long_use.py parallel --count 8    # so many processes at the same moment
    python experiments/reliability/long_use.py parallel --count 8 --server http://127.0.0.1:5000

All of them score a small file of predictions. `runs` prints a row for every tenth of them: seconds of CPU time and of
the clock for a run, open files, threads, memory, and what the store takes for a run. The others print how many runs
were begun, and how many of them the store has, FINISHED and with the scores that their folders hold.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from omniner.config import compose
from omniner.run import run
from omniner.runs.folder import METRICS, STATE
from omniner.tracking.store import open_store
from omniner.tracking.tracked_run import display_name

LINE = '{"id": "%d", "text": "喝小满%d", "entities": [{"text": "小满", "category": "品牌", "start": 1, "end": 3}]}\n'
COMMAND = [
    "task=score",
    "predictions=p.jsonl",
    "gold=gold.jsonl",
    "metrics.bootstrap=0",
    "tracking.system_metrics=false",
]


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _memory() -> float:
    """Megabytes that this process holds."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def many_runs(count: int) -> None:
    """Do so many runs one after the other in this process, and print what each tenth of them cost."""
    step = max(1, count // 10)
    print("| runs | CPU s a run | s a run | open files | threads | memory, MB | store, kB a run | folder, kB a run |")
    print("| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    before = [0, 0]
    clock, cpu = time.monotonic(), time.process_time()
    for number in range(1, count + 1):
        run(compose.load([*COMMAND, f"name=r{number}"]))
        if number % step == 0:
            passed, used = time.monotonic() - clock, time.process_time() - cpu
            sizes = [_size(Path(name)) for name in ("mlruns", "outputs")]
            grown = [f"{(now - then) / step / 1000:.1f}" for now, then in zip(sizes, before, strict=True)]
            files, threads = len(list(Path("/proc/self/fd").iterdir())), threading.active_count()
            values = [number, f"{used / step:.2f}", f"{passed / step:.2f}", files, threads, f"{_memory():.0f}", *grown]
            print(f"| {' | '.join(map(str, values))} |", file=sys.stderr, flush=True)
            before, clock, cpu = sizes, time.monotonic(), time.process_time()
    check_store(count, [])


def sweep(count: int) -> None:
    """Sweep over so many seeds."""
    begun = time.monotonic()
    seeds = f"seed=range(1,{count + 1})"
    subprocess.run([sys.executable, "-m", "omniner.run", "-m", *COMMAND, seeds], check=True, stdout=subprocess.DEVNULL)
    print(f"{(time.monotonic() - begun) / count:.1f} s a child", file=sys.stderr)
    check_store(count, [])


def parallel(count: int, server: list[str]) -> None:
    """Begin so many processes at the same moment, on a store that is not there yet."""
    command = [sys.executable, "-m", "omniner.run", *COMMAND, *server]
    begun = time.monotonic()
    processes = [subprocess.Popen([*command, f"name=p{number}"], stdout=subprocess.DEVNULL) for number in range(count)]
    failed = sum(process.wait() != 0 for process in processes)
    print(f"{count} processes in {time.monotonic() - begun:.0f} s, {failed} failed", file=sys.stderr)
    check_store(count, server)


def check_store(begun: int, server: list[str]) -> None:
    """Compare the store with the folders of all runs."""
    store = open_store(compose.load(["task=check", *server]).tracking)
    complete = 0
    folders = [path.parent for path in Path("outputs").rglob(STATE)]
    for folder in folders:
        state: dict[str, Any] = json.loads((folder / STATE).read_text())
        tracked = store.client.get_run(state["run_id"])
        values = {display_name(name): value for name, value in tracked.data.metrics.items()}
        kept = json.loads((folder / METRICS).read_text())
        ended = (state["status"], tracked.info.status) == ("finished", "FINISHED")
        complete += ended and kept.items() <= values.items()
    print(f"{begun} runs begun, {len(folders)} folders, {complete} complete in the store", file=sys.stderr)
    if complete != begun:
        sys.exit(1)


def main() -> None:
    """Make a directory with predictions, and do one part in it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["runs", "sweep", "parallel"])
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--server", help="address of an MLflow server; else a store of its own")
    given = parser.parse_args()
    server = ["tracking=server", f"tracking.uri={given.server}"] if given.server else []
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        for name in ("p.jsonl", "gold.jsonl"):
            Path(name).write_text("".join(LINE % (n, n) for n in range(20)), encoding="utf-8")
        if given.part == "parallel":
            parallel(given.count, server)
        elif given.part == "sweep":
            sweep(given.count)
        else:
            logging.disable(logging.WARNING)
            many_runs(given.count)


if __name__ == "__main__":
    main()
