"""An installed wheel carries everything: conf/, the corpus of the defaults, the parts of the report."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
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
def test_an_editable_install_works_beside_a_clone_of_its_name(tmp_path: Path) -> None:
    (tmp_path / "omniner").mkdir()
    asked = "import omniner; from omniner.config.compose import conf_folder; print(omniner.load, conf_folder())"
    code = "import sys; from setuptools import build_meta; build_meta.build_editable(sys.argv[1])"
    source = tmp_path / "source"
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(source)], check=True)
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=source, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*editable*.whl")
    with zipfile.ZipFile(wheel) as opened:
        (path,) = (opened.read(name).decode().strip() for name in opened.namelist() if name.endswith(".pth"))
    # What site-packages' .pth files give stands behind the current folder; the installation that runs the tests is not
    # to be found.
    without = (
        "import os, sys; sys.meta_path = [one for one in sys.meta_path if 'ditable' not in repr(one)];"
        "sys.path = [one for one in sys.path if not os.path.exists(os.path.join(one, 'omniner', '__init__.py'))]"
    )
    found = _run(Path(), tmp_path, "-c", f"{without}; sys.path.append({path!r}); {asked}")
    assert "function load" in found
    assert str(source / "conf") in found


@pytest.mark.slow
def test_a_run_works_from_it(site: Path, tmp_path: Path) -> None:
    printed = _run(site, tmp_path, "-m", "omniner.run", "debug=fast", "tracking=off")
    folder = tmp_path / printed.strip().splitlines()[-1]
    assert (folder / "report.html").stat().st_size > 100_000


@pytest.mark.slow
def test_spacy_finds_the_component(site: Path, tmp_path: Path) -> None:
    pytest.importorskip("spacy", reason="needs spacy: pip install omniner[spacy]")
    asked = "import spacy; print(spacy.blank('zh').has_factory('omniner'))"
    assert _run(site, tmp_path, "-c", asked).strip() == "True"
