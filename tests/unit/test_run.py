"""The command line: what Hydra is kept from doing."""

from __future__ import annotations

import os
from collections.abc import Sequence

import pytest
from hydra._internal.hydra import Hydra

from omniner import run


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
