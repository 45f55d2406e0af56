"""An installed wheel carries everything: conf/, the corpus of the defaults, the parts of the report."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with nothing but the installed wheel."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    source = folder / "source"
    # built from a copy, so that no build folder of the checkout can lend it a file
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(source)], check=True)
    build = [*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", str(folder), str(source)]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--target", str(folder / "site"), str(wheel)], check=True)
    return folder / "site"


def _run(site: Path, cwd: Path, *arguments: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(site), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *arguments]
    result = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.mark.slow
def test_conf_comes_with_it(site: Path, tmp_path: Path) -> None:
    where = _run(site, tmp_path, "-c", "import omniner, omniner.conf; print(omniner.__file__, omniner.conf.__file__)")
    assert where.count(str(site)) == 2
    printed = _run(site, tmp_path, "-m", "omniner.run", "--cfg", "job", "data=cluener")
    assert "cluener" in printed


@pytest.mark.slow
def test_a_run_works_from_it(site: Path, tmp_path: Path) -> None:
    printed = _run(site, tmp_path, "-m", "omniner.run", "debug=fast", "tracking=off")
    folder = tmp_path / printed.strip().splitlines()[-1]
    assert (folder / "report.html").stat().st_size > 100_000
