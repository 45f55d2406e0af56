"""What a person types is read as files are, and what is shown does not command the terminal."""

from __future__ import annotations

import io
import sys

import pytest

from omniner.errors import UserError
from omniner.records import Entity, Prediction, Sentence, with_score
from omniner.tasks import chat, labelling


def test_a_sentence_does_not_command_the_terminal() -> None:
    shown = labelling.marked_line(Sentence("1", "去\x1b[2J喝\n茶"), Prediction("1", [Entity("茶", "饮品", 7, 8)]))
    assert shown == "去�[2J喝�[茶|饮品]"


def test_a_confidence_is_shown_where_there_is_one() -> None:
    found = [with_score(Entity("茶", "饮品", 1, 2), 0.876), Entity("喝", "行为", 0, 1)]
    assert labelling.marked_line(Sentence("1", "喝茶"), Prediction("1", found)) == "[喝|行为][茶|饮品 0.88]"


def test_half_a_character_of_an_answer_is_shown() -> None:
    found = [Entity("茶\ud83d", "饮\udc00品")]
    assert labelling.marked_line(Sentence("1", "喝茶"), Prediction("1", found)) == "喝茶 +[茶�|饮�品]"


@pytest.mark.parametrize("task", ["predict", "chat"])
def test_standard_input_is_read_as_files_are(task: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def texts(data: bytes) -> list[str]:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data), encoding="latin-1"))
        return list(chat._typed_lines()) if task == "chat" else labelling.piped_lines()

    assert [one for one in texts("\ufeff去喝小满\r\n\n 好 ".encode()) if one] == ["去喝小满", "好"]
    with pytest.raises(UserError, match=r"standard input:2: not UTF-8.*iconv"):
        texts("好\n".encode() + "去喝小满\n".encode("gb18030"))
