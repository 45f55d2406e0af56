"""Find the files of the runs that the entries of `runs` name: predictions, gold, configuration.

An entry is a predictions file, a run folder, the folder of a sweep (all its runs), or a run of the tracking store by
its id or name; `name=...` before it renames it.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omniner import tracking
from omniner.config import run_config
from omniner.config.groups import Config, DataConfig
from omniner.config.run_config import NOT_IDENTITY
from omniner.corpus import sources
from omniner.errors import UserError
from omniner.files import explaining, make_folder, read_json
from omniner.report.comparison_tables import distinguishing_overrides
from omniner.runs import sweep
from omniner.runs.context import split_entry
from omniner.runs.folder import GOLD, PREDICTIONS, ROOT, SCORES, SWEEP_STATE, read_state
from omniner.runs.references import resolve_run

CONFIG = "config.yaml"


@dataclass(frozen=True, slots=True)
class RunFiles:
    """The files of a run, and what is known about it.

    `config` and `signature` (of its own scores) are empty for a predictions file without a run, `run_id` for an
    untracked run.
    """

    name: str
    where: str  # its location, for people
    predictions: Path
    gold: Path | None  # None: in or beside the predictions
    data: DataConfig | None  # settings to read both files; None: OmniNER wrote them
    config: Mapping[str, Any]
    run_id: str
    signature: str = ""


def find_run_files(config: Config, copies: Path) -> list[RunFiles]:
    """Find the files of every entry of `runs`; each gets a unique name.

    Args:
        config: `runs`, `gold` (for entries that have none) and `tracking` are read.
        copies: a folder for files fetched from the tracking store.
    """
    found = []
    # An entry with `=` may be the name of a run: children of a sweep have a `=` in their names.
    parts = [("", entry) if _is_name_of_run(entry, config) else _split(entry) for entry in config.runs]
    for number, (name, text) in enumerate(_with_runs_of_sweeps(parts)):
        with explaining(text):
            source = _locate(text, config, copies / str(number))
        found.append(dataclasses.replace(source, name=name) if name else source)
    return _with_own_names(found)


def count_runs(entries: Sequence[str]) -> int:
    """Return how many runs the entries name; each run of a sweep counts."""
    return len(_with_runs_of_sweeps([_split(entry) for entry in entries]))


def _is_name_of_run(entry: str, config: Config) -> bool:
    return bool(_split(entry)[0]) and tracking.has_run(config.tracking, entry)


def _split(entry: str) -> tuple[str, str]:
    """Split an entry into the name that it gives (may be empty) and the location of the run."""
    with explaining(entry):
        return ("", entry) if (ROOT / entry).is_dir() else split_entry(entry)


def _with_runs_of_sweeps(parts: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """Return names and paths, with each sweep's folder replaced by its finished runs.

    The runs are named by the overrides that distinguish them: from the other runs of their sweep, after the name that
    the entry gives; if it gives none, from the runs of all sweeps in the list.
    """
    sweeps: dict[int, list[tuple[list[str], Path]]] = {}
    for number, (_, text) in enumerate(parts):
        with explaining(text):
            if (Path(text) / SWEEP_STATE).is_file():
                sweeps[number] = sweep.finished_runs(Path(text))
    labels = iter(_labels([overrides for runs in sweeps.values() for overrides, _ in runs]))
    found: list[tuple[str, str]] = []
    for number, (name, text) in enumerate(parts):
        if (runs := sweeps.get(number)) is None:
            found.append((name, text))
            continue
        names = [next(labels) for _ in runs]
        if name:
            names = [f"{name} {label}".rstrip() for label in _labels([overrides for overrides, _ in runs])]
        found += [(label, str(folder)) for label, (_, folder) in zip(names, runs, strict=True)]
    return found


def _labels(runs: Sequence[Sequence[str]]) -> list[str]:
    """Return for each run the overrides that distinguish it, without those that do not change its results."""
    return distinguishing_overrides([[one for one in run if not one.startswith(NOT_IDENTITY)] for run in runs], ())


def _locate(text: str, config: Config, copies: Path) -> RunFiles:
    gold, path = _gold_of(config), Path(text)
    if path.is_file():
        state = read_state(path.parent)
        # If the file belongs to no run, a config.yaml beside it belongs to something else.
        settings = _read_config(path.parent) if state else {}
        data = None if state and gold is None else config.data
        run_id, signature = state.get("run_id", ""), _read_signature(path.parent) if state else ""
        return RunFiles(_name_of(path, settings), str(path), path, gold, data, settings, run_id, signature)
    found = resolve_run(text, config.tracking, "runs")
    if found.status and not found.has_results:
        named = f"{found.name} ({found.run_id})" if found.found_in_store else f"in {found.folder}"
        fix = "Let it finish first (the same command goes on with it), or name another one."
        raise UserError("runs", f"the run {named} is {found.status}, not finished", fix)
    folder = found.folder
    if folder is None:
        folder = make_folder(copies)
        tracking.fetch_artifacts(config.tracking, found.run_id, (PREDICTIONS, GOLD, CONFIG, SCORES), folder)
    source = _of_folder(folder, config, found.run_id)
    if not found.found_in_store:
        return source
    where = f"run {found.run_id} ({found.folder or 'from the store'})"
    return dataclasses.replace(source, name=found.name, where=where)


def _of_folder(folder: Path, config: Config, run_id: str) -> RunFiles:
    settings = _read_config(folder)
    name, predictions = str(settings.get("name") or folder.resolve().name), folder / PREDICTIONS
    signature = _read_signature(folder)
    if predictions.is_file():
        own = (folder / GOLD).is_file()
        gold, data = (folder / GOLD, None) if own else (_gold_of(config), config.data)
        return RunFiles(name, str(folder), predictions, gold, data, settings, run_id, signature)
    scored = settings.get("predictions")  # task=score leaves the predictions where they are
    if not scored or not Path(scored).is_file():
        found = f"{folder} holds no {PREDICTIONS}" + (f", and {scored} is gone" if scored else "")
        raise UserError("runs", found, "Name a run of task=train, predict or score, or a predictions file.")
    gold, data = _gold_of(config), config.data
    if (theirs := settings.get("gold")) or gold is None:  # then it is read with that run's settings
        gold = Path(theirs) if theirs else None
        data = sources.data_of_another_run(run_config.with_sections_of(config, folder / CONFIG, ["data"]).data)
    return RunFiles(name, f"{folder}: {scored}", Path(scored), gold, data, settings, run_id, signature)


def _gold_of(config: Config) -> Path | None:
    return Path(config.gold) if config.gold else None


def _read_config(folder: Path) -> dict[str, Any]:
    """Return the configuration of the run in this folder, as it was written; empty if there is none."""
    path = folder / CONFIG
    if not path.is_file():
        return {}
    return run_config.read_mapping(path, "Repair the file, or name the predictions file alone.")


def _read_signature(folder: Path) -> str:
    """Return the signature of the scores in this run's folder; empty if there are none."""
    scores = folder / SCORES
    return str(read_json(scores).get("signature", "")) if scores.is_file() else ""


def _name_of(path: Path, settings: Mapping[str, Any]) -> str:
    """Return a name for a predictions file: its run's name, else its stem, or its folder's name for a usual stem."""
    usual = path.stem in ("predictions", "generated_predictions")
    return str(settings.get("name") or (path.resolve().parent.name if usual else path.stem))


def _with_own_names(sources: Sequence[RunFiles]) -> list[RunFiles]:
    """Number the runs that share a name, as runs of one configuration do."""
    shared = Counter(source.name for source in sources)
    met: Counter[str] = Counter()
    named: list[RunFiles] = []
    for source in sources:
        name = source.name
        if shared[name] > 1:
            met[name] += 1
            name = f"{name} #{met[name]}"
        named.append(dataclasses.replace(source, name=name))
    if len({source.name for source in named}) < len(named):
        names = ", ".join(source.name for source in named)
        raise UserError("runs", f"names are not unique: {names}", 'Give other names: "name=path".')
    return named
