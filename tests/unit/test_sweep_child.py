from __future__ import annotations

import pytest

from omniner import config as configs
from omniner.sweep_child import error_line, quoted

TRACEBACK = """12:00:00 INFO starting
Traceback (most recent call last):
  File "a.py", line 1, in <module>
    boom()
torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB.
GPU 0 has 1 GiB free.
"""


@pytest.mark.parametrize(
    ("said", "status", "line"),
    [
        ("anything", 0, ""),
        ("log\nerror: data.root: missing. Name it.\n", 2, "data.root: missing. Name it."),
        (TRACEBACK, 1, "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB."),
        ("a\nno traceback\n", 3, "no traceback"),
        ("", 3, "exit status 3"),
        (TRACEBACK, -9, "killed by SIGKILL, as happens for want of memory"),
        ("", -11, "killed by SIGSEGV"),
    ],
)
def test_what_went_wrong_is_one_line(said: str, status: int, line: str) -> None:
    assert error_line(said, status) == line


@pytest.mark.parametrize("folder", ["a b", "a'b", "a=b,c", "名字"])
def test_a_folder_of_any_name_reaches_the_child(folder: str) -> None:
    assert configs.load([f"output_dir={quoted(folder)}"]).output_dir == folder
