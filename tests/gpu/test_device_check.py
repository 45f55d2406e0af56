"""The check of a GPU machine runs here with tiny shapes, says what fails, and goes on behind it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from pretended_gpu import pretended_gpu

from tests.gpu import device_check


def lines(path: Path) -> dict[str, list[dict[str, Any]]]:
    """What each stage said."""
    found: dict[str, list[dict[str, Any]]] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        said = json.loads(line)
        found.setdefault(said.pop("stage"), []).append(said)
    return found


@pytest.mark.slow
def test_every_stage_finds_something_on_a_cpu(tmp_path: Path) -> None:
    stages = "versions,ceilings,attention,train,decode,repeat"
    command = [sys.executable, device_check.__file__, "--tiny", "--stages", stages, "--out", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    said = lines(tmp_path / "out")
    assert list(said) == stages.split(",")
    assert [one for stage in said.values() for one in stage if "error" in one] == []
    assert done.returncode == 0, done.stderr[-2000:]
    assert {one["backend"] for one in said["attention"][:-1]} == {"cascade", "masked"}
    assert all(max(one["errors"]) < 0.02 for one in said["attention"][:-1])
    assert [one["lora_same"] for one in said["decode"] if "slots" in one] == [1.0] * 5
    assert [one["generate_same"] for one in said["decode"] if "generate_same" in one] == [1.0] * 2
    assert [one["readable"] for one in said["decode"] if one.get("decoding") == "guided"] == [1.0]
    assert all(one["same_bytes"] for one in said["repeat"][:-1])
    assert len([one for one in said["train"] if "ms" in one]) == 7


def test_what_only_a_gpu_is_asked_for_has_no_mistakes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its branches, on a pretended GPU: its minutes are too few to find a wrong name there."""
    import bitsandbytes  # noqa: F401  (looks for a GPU when it is imported)
    import peft  # noqa: F401

    monkeypatch.setattr(device_check, "counted", lambda *_: 1.0)  # on torch's `meta` device, which is taken here
    monkeypatch.setattr(device_check, "idle_share", lambda *_: 0.5)  # the profiler asks the driver
    stages = "versions,attention,train,repeat"
    with pretended_gpu():
        device_check.main(["--tiny", "--stages", stages, "--out", str(tmp_path / "out")])
    said = lines(tmp_path / "out")
    assert list(said) == stages.split(",")
    assert (said["versions"][0]["device"], said["versions"][1]["gpu"]) == ("cuda", "pretended")
    # neither the compiler nor bitsandbytes takes the tensors of a pretended GPU
    failed = [one for stage in said.values() for one in stage if "error" in one]
    assert {one.get("backend", one.get("method")) for one in failed} == {"flex", "qlora"}
    assert {one["backend"] for one in said["attention"] if "ms" in one} == {"flash", "masked"}
    trained = {(one["method"], one["checkpointing"]) for one in said["train"] if "idle" in one}
    assert trained == {("lora", False), ("lora", True), ("full", False), ("full", True)}
    assert [one["same_bytes"] for one in said["repeat"][:-1]] == [True, True]


def test_a_model_that_fails_is_gone_before_the_next_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """After one that does not fit, the others would find no memory either."""
    made: list[weakref.ref[Any]] = []
    left: list[int] = []

    def learner(*_: Any) -> tuple[Any, None]:
        left.append(sum(one() is not None for one in made))
        model = torch.nn.Linear(2, 2)
        made.append(weakref.ref(model))
        return model, None

    def fail(*_: Any) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(device_check, "learner", learner)
    monkeypatch.setattr(device_check, "random_model", lambda *_: learner()[0])
    for name in ("step_of", "answers_per_second"):
        monkeypatch.setattr(device_check, name, fail)
    monkeypatch.setattr(device_check, "guided", lambda *_: None)
    for stage in (device_check.train, device_check.decode, device_check.repeat):
        stage(device_check.Check(True, None))
    assert left == [0] * (7 + 5 + 2)


def test_a_stage_that_fails_or_takes_too_long_is_said_and_the_next_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(check: device_check.Check) -> None:
        with check.part(what="half"):
            raise ValueError("this half does not work")
        raise RuntimeError("neither does the whole")

    stages = {"broken": (broken, 5.0), "slow": (lambda check: time.sleep(60), 1.1), "good": (lambda check: None, 5.0)}
    monkeypatch.setattr(device_check, "STAGES", stages)
    assert device_check.main(["--tiny", "--stages", "broken,slow,good", "--out", str(tmp_path / "out")]) == 1
    said = lines(tmp_path / "out")
    assert [one["error"] for one in said["broken"]] == [
        "ValueError: this half does not work",
        "RuntimeError: neither does the whole",
    ]
    assert "more than" in said["slow"][0]["error"]
    assert said["good"][0]["done"]


def test_a_stage_that_hangs_in_a_library_is_left_behind(tmp_path: Path) -> None:
    """What no signal interrupts ends with the process, which starts itself again with the stages that are left."""
    script = tmp_path / "check.py"
    script.write_text(
        "import sys, time\n"
        f"sys.path[:0] = [{str(Path(device_check.__file__).parents[2])!r}]\n"
        "from tests.gpu import device_check as check\n"
        "def hang(found):\n"
        "    while True:\n"
        "        try:\n"
        "            time.sleep(60)\n"
        "        except check.TooLong:\n"
        "            pass\n"
        "check.__file__, check.GRACE = __file__, 0.5\n"
        "check.STAGES = {'hang': (hang, 1.0), 'good': (lambda found: None, 5.0)}\n"
        "sys.exit(check.main(sys.argv[1:]))\n",
        encoding="utf-8",
    )
    command = [sys.executable, str(script), "--tiny", "--stages", "hang,good", "--out", str(tmp_path / "out")]
    assert subprocess.run(command, capture_output=True, timeout=120).returncode == 0
    said = lines(tmp_path / "out")
    assert "started again behind it" in said["hang"][0]["error"]
    assert said["good"][0]["done"]
