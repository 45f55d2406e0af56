"""Lines about long work: not too many, and true."""

from __future__ import annotations

import io
import logging
import os
from pathlib import Path

import pytest

from omniner import progress


def test_a_line_every_ten_seconds_with_rate_and_estimate(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    spoken, silent = progress.Progress("sentences answered", 40), progress.Progress("x", 40, quiet=True)
    with caplog.at_level(logging.INFO, "omniner"):
        for _ in range(10):  # 2 in each 3 seconds
            now[0] += 3
            spoken.add(2)
            silent.add(2)
    assert caplog.messages == [
        "8 of 40 sentences answered, 0.7 per s, 48 s left",
        "16 of 40 sentences answered, 0.7 per s, 36 s left",
    ]


def test_it_says_what_it_is_asked_to_say_besides(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    trouble = ["", "3 further attempts"]
    asked = progress.Progress("requests", 4000, seconds=60, note=lambda: trouble.pop(0))
    with caplog.at_level(logging.INFO, "omniner"):
        asked.say()
        now[0] += 100
        asked.add(1000)
        asked.add(1000)
    assert caplog.messages == [
        "0 of 4,000 requests",
        "1,000 of 4,000 requests, 10.0 per s, 5.0 min left; 3 further attempts",
    ]
    now[0] += 99_900
    assert asked.status() == "2,000 of 4,000 requests, 1.2 per min, 27.8 h left"
    now[0] -= 99_900
    assert asked.status() == "2,000 of 4,000 requests, 20.0 per s, 1.7 min left"


def test_what_was_done_before_does_not_count_for_the_rate(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    resumed = progress.Progress("steps", 100, done=60, note=lambda: "asked")
    assert resumed.status() == "60 of 100 steps"
    now[0] += 5
    resumed.add(20)
    with caplog.at_level(logging.INFO, "omniner"):
        resumed.say("given")
    assert caplog.messages == ["80 of 100 steps, 4.0 per s, 5 s left; given"]


@pytest.mark.parametrize(("seconds", "said"), [(0.4, "0 s"), (99, "99 s"), (150, "2.5 min"), (9000, "2.5 h")])
def test_a_duration_is_said_in_the_unit_that_fits(seconds: float, said: str) -> None:
    assert progress.duration(seconds) == said


def test_a_rate_is_said_of_enough_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 64 sentences that are answered side by side, the first answer says nothing about the others."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    answered = progress.Progress("sentences answered", 400, done=100, enough=64)
    now[0] += 30
    answered.add(1)
    assert answered.status() == "101 of 400 sentences answered"
    now[0] += 2
    answered.add(63)
    assert answered.status() == "164 of 400 sentences answered, 2.0 per s, 2.0 min left"


@pytest.mark.parametrize("gone", ["pipe", "disk"])
def test_what_cannot_be_shown_stops_nothing(gone: str, caplog: pytest.LogCaptureFixture) -> None:
    if gone == "disk" and not Path("/dev/full").exists():
        pytest.skip("only Linux has a file that is always full")
    reading, writing = os.pipe() if gone == "pipe" else (None, os.open("/dev/full", os.O_WRONLY))
    if reading is not None:
        os.close(reading)
    with os.fdopen(writing, "w", encoding="utf-8") as stream:
        progress.show("甲", stream)
        progress.show("乙", stream)
    assert caplog.text.count("cannot be shown any more") == 1


def test_what_an_encoding_lacks_is_escaped() -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding="gbk", newline="")
    progress.show("小满😀\ud83d", stream)
    assert stream.buffer.getvalue().decode("gbk") == "小满\\U0001f600\\ud83d\n"  # type: ignore[attr-defined]


def test_what_is_shown_is_printed_or_logged_for_a_program(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where nobody has set up logging, as in a notebook, all that is logged meanwhile is seen."""
    logger = logging.getLogger("omniner")
    monkeypatch.setattr(logger, "propagate", False)  # away from the handlers of the tests
    monkeypatch.setattr(logger, "handlers", [])  # and without what commands of earlier tests have set up
    before = logger.level, list(logger.handlers)
    progress.show("scores")
    assert capsys.readouterr() == ("scores\n", "")
    with progress.logged():
        progress.show("scores")
        logger.info("an epoch")
    printed, said = capsys.readouterr()
    assert (printed, [line[9:] for line in said.splitlines()]) == ("", ["INFO scores", "INFO an epoch"])
    assert (logger.level, list(logger.handlers)) == before


def test_a_handler_of_the_root_logger_alone_does_not_silence_a_program(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One logging.warning() sets it up, and leaves the level at WARNING."""
    stream, logger = io.StringIO(), logging.getLogger("omniner")
    monkeypatch.setattr(logger.root, "handlers", [logging.StreamHandler(stream)])
    monkeypatch.setattr(logger.root, "level", logging.WARNING)
    monkeypatch.setattr(logger, "handlers", [])  # whatever commands of earlier tests have set up
    monkeypatch.setattr(logger, "level", logging.NOTSET)
    logger.manager._clear_cache()  # type: ignore[attr-defined]
    with progress.logged():
        progress.show("scores")
    logger.info("later")
    assert (stream.getvalue(), logger.level) == ("scores\n", logging.NOTSET)
    monkeypatch.setattr(logger, "level", logging.WARNING)  # as the program wants it
    logger.manager._clear_cache()  # type: ignore[attr-defined]
    with progress.logged():
        progress.show("more scores")
    assert stream.getvalue() == "scores\n"
    assert capsys.readouterr() == ("", "")


def test_who_has_set_up_logging_decides_what_is_seen(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    for logger, handlers in ((logging.getLogger("omniner"), []), (logging.root, [caplog.handler])):
        monkeypatch.setattr(logger, "handlers", handlers)  # without what commands of earlier tests have set up
    with caplog.at_level(logging.INFO, "omniner"), progress.logged():
        progress.show("scores")
    assert caplog.messages == ["scores"]
    assert capsys.readouterr() == ("", "")
