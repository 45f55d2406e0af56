"""The command line: what Hydra is kept from doing."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import pytest
from hydra._internal.hydra import Hydra

from omniner import run
from omniner.config import compose
from omniner.config.groups import Config


@pytest.mark.parametrize(
    ("arguments", "once"),
    [
        (["seed=1"], True),
        (["-m", "seed=1,2"], True),
        (["hydra.mode=MULTIRUN"], False),
        (["--config-dir", "mine"], False),
        (["-cd=mine"], False),
    ],
)
def test_the_configuration_is_composed_once_where_nobody_sets_the_mode(
    arguments: Sequence[str], once: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Hydra, "get_mode", lambda *_: "composed")
    run.compose_once(arguments)
    assert Hydra.get_mode(object(), "config", []) == (None if once else "composed")  # type: ignore[arg-type]


@pytest.mark.parametrize(("given", "kept"), [(None, "10000"), ("0", "0")])
def test_threads_do_not_hold_the_cores_that_they_wait_on(
    given: str | None, kept: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GOMP_SPINCOUNT", given or "")  # so that it is put back afterwards
    if given is None:
        monkeypatch.delenv("GOMP_SPINCOUNT")
    monkeypatch.setattr("sys.argv", ["omniner", "--version"])
    run.main()
    assert os.environ["GOMP_SPINCOUNT"] == kept


def test_native_windows_is_refused_before_anything_starts(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.platform", "win32")
    with pytest.raises(SystemExit) as ended:
        run.main()
    assert ended.value.code == 2
    assert "not on Windows itself. Use WSL 2." in capsys.readouterr().err


def test_a_training_leaves_torch_to_the_program_that_started_it(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    def train(config: Config) -> tuple[Path, str]:
        torch.set_num_threads(threads + 1)
        torch.set_float32_matmul_precision("high")
        return Path("here"), ""

    threads = torch.get_num_threads()
    monkeypatch.setattr(run, "_perform", train)
    assert run.run(compose.load([])) == Path("here")
    assert (torch.get_num_threads(), torch.get_float32_matmul_precision()) == (threads, "highest")
