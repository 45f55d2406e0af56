from __future__ import annotations

import pytest

from omniner import config as configs
from omniner.sweep_child import quoted


@pytest.mark.parametrize("folder", ["a b", "a'b", "a=b,c", "名字"])
def test_a_folder_of_any_name_reaches_the_child(folder: str) -> None:
    assert configs.load([f"output_dir={quoted(folder)}"]).output_dir == folder
