"""Checkpoints of InternLM2 and Baichuan2 converted to Llama: the same logits, whole folders, clear refusals."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from small_checkpoints import (
    BAICHUAN2,
    INTERNLM2,
    WORDS,
    baichuan2_logits,
    baichuan2_weights,
    internlm2_logits,
    internlm2_weights,
    write_checkpoint,
)
from torch import Tensor

from omniner.convert import weights
from omniner.convert.families.baichuan import unit_rows
from omniner.convert.weights import convert_checkpoint
from omniner.errors import UserError

SCALINGS = [None, {"type": "dynamic", "factor": 2.0}, {"type": "linear", "factor": 4.0}]


def _ids(length: int) -> list[int]:
    return torch.randint(WORDS, (length,), generator=torch.Generator().manual_seed(length)).tolist()


def _llama_logits(folder: Path, ids: list[int]) -> Tensor:
    """Logits [T, V] of the converted model, loaded as any user would load it; no weight missing or left over."""
    from transformers import AutoModelForCausalLM

    model, report = AutoModelForCausalLM.from_pretrained(
        folder, trust_remote_code=False, dtype=torch.float32, output_loading_info=True
    )
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    with torch.no_grad():
        logits: Tensor = model.eval()(torch.tensor([ids])).logits[0]
    return logits


def _tensors(folder: Path) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for path in sorted(folder.glob("*.safetensors")):
        found |= load_file(path)
    return found


@pytest.mark.parametrize("length", [9, 40])  # below and above max_position_embeddings
@pytest.mark.parametrize("scaling", SCALINGS, ids=["none", "dynamic", "linear"])
def test_internlm2_computes_the_same_logits(tmp_path: Path, scaling: dict[str, Any] | None, length: int) -> None:
    config = {**INTERNLM2, "rope_scaling": scaling}
    content = internlm2_weights(config)
    convert_checkpoint(write_checkpoint(tmp_path / "in", config, content), tmp_path / "out")
    expected = internlm2_logits(content, config, _ids(length))
    torch.testing.assert_close(_llama_logits(tmp_path / "out", _ids(length)), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("groups", [1, 3, 6])
def test_internlm2_with_other_groups_and_biases(tmp_path: Path, groups: int) -> None:
    config = {**INTERNLM2, "num_key_value_heads": groups, "bias": True}
    content = internlm2_weights(config)
    convert_checkpoint(write_checkpoint(tmp_path / "in", config, content), tmp_path / "out")
    expected = internlm2_logits(content, config, _ids(12))
    torch.testing.assert_close(_llama_logits(tmp_path / "out", _ids(12)), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("pickled", [True, False])
def test_baichuan2_computes_the_same_logits(tmp_path: Path, pickled: bool) -> None:
    content = baichuan2_weights(BAICHUAN2)
    convert_checkpoint(
        write_checkpoint(tmp_path / "in", BAICHUAN2, content, files=3, pickled=pickled), tmp_path / "out"
    )
    expected = baichuan2_logits(content, BAICHUAN2, _ids(30))
    torch.testing.assert_close(_llama_logits(tmp_path / "out", _ids(30)), expected, rtol=1e-4, atol=1e-4)


def test_the_reference_tells_layouts_apart() -> None:
    """The comparisons above would notice queries, keys and values in another order, or a head that is not scaled."""
    content = internlm2_weights(INTERNLM2)
    right = internlm2_logits(content, INTERNLM2, _ids(9))
    fused = "model.layers.1.attention.wqkv.weight"
    wrong = internlm2_logits({**content, fused: content[fused].roll(8, 0)}, INTERNLM2, _ids(9))
    assert (right - wrong).abs().max() > 1e-2
    other = internlm2_logits(content, {**INTERNLM2, "rope_theta": 10000}, _ids(9))
    assert (right - other).abs().max() > 1e-2


def test_the_folder_loads_without_code_and_says_what_the_checkpoint_said(tmp_path: Path) -> None:
    from transformers import AutoConfig, AutoTokenizer, GenerationConfig

    source = write_checkpoint(tmp_path / "in", INTERNLM2, internlm2_weights(INTERNLM2))
    sampling = {"bos_token_id": 1, "eos_token_id": [2, 300], "pad_token_id": 2, "user_token_id": 195}
    (source / "generation_config.json").write_text(json.dumps({**sampling, "transformers_version": "4.41.0"}))
    convert_checkpoint(source, tmp_path / "out")
    config = AutoConfig.from_pretrained(tmp_path / "out", trust_remote_code=False)
    assert config.model_type == "llama"
    written = json.loads((tmp_path / "out" / "config.json").read_text())
    kept = ["hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads"]
    kept += ["rms_norm_eps", "vocab_size", "max_position_embeddings", "rope_theta"]
    kept += ["bos_token_id", "eos_token_id", "pad_token_id"]
    assert {key: written[key] for key in kept} == {key: INTERNLM2[key] for key in kept}
    assert written["rope_scaling"] == {"rope_type": "dynamic", "factor": 2.0}
    assert written["torch_dtype"] == "float32"  # of the tensors, whatever config.json claims
    assert not {"auto_map", "attn_implementation"} & written.keys()
    assert GenerationConfig.from_pretrained(tmp_path / "out").eos_token_id == [2, 300]
    assert "user_token_id" not in (tmp_path / "out" / "generation_config.json").read_text()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out", trust_remote_code=False)
    assert tokenizer.tokenize("北京 ab") == ["北京", "▁", "ab"]
    assert tokenizer("ab").input_ids[0] == 1  # InternLM2's texts begin with <s>


@pytest.mark.parametrize("files", [1, 4])
def test_output_files_are_cut_to_size_whatever_the_input_files(tmp_path: Path, files: int) -> None:
    content = internlm2_weights(INTERNLM2)
    source = write_checkpoint(tmp_path / "in", INTERNLM2, content, files=files)
    convert_checkpoint(source, tmp_path / "whole")
    convert_checkpoint(source, tmp_path / "cut", shard_bytes=40_000)
    paths = sorted((tmp_path / "cut").glob("*.safetensors"))
    assert len(paths) > 5
    assert [path.name for path in paths] == [
        f"model-{i:05d}-of-{len(paths):05d}.safetensors" for i in range(1, len(paths) + 1)
    ]
    index = json.loads((tmp_path / "cut" / "model.safetensors.index.json").read_text())
    held: dict[str, str] = {}
    for path in paths:
        tensors = load_file(path)
        assert len(tensors) == 1 or sum(value.nbytes for value in tensors.values()) <= 40_000
        held |= dict.fromkeys(tensors, path.name)
        with safe_open(path, framework="pt") as file:
            assert file.metadata() == {"format": "pt"}
    assert index["weight_map"] == held
    cut, whole = _tensors(tmp_path / "cut"), _tensors(tmp_path / "whole")
    assert index["metadata"]["total_size"] == sum(value.nbytes for value in whole.values())
    assert cut.keys() == whole.keys()
    assert all(torch.equal(cut[name], whole[name]) for name in whole)
    torch.testing.assert_close(
        _llama_logits(tmp_path / "cut", _ids(9)), internlm2_logits(content, INTERNLM2, _ids(9)), rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_precision_is_kept_and_the_head_is_scaled_in_float32(tmp_path: Path, dtype: torch.dtype) -> None:
    content = {name: value.to(dtype) for name, value in baichuan2_weights(BAICHUAN2).items()}
    convert_checkpoint(write_checkpoint(tmp_path / "in", BAICHUAN2, content), tmp_path / "out")
    written = _tensors(tmp_path / "out")
    assert {value.dtype for value in written.values()} == {dtype}
    head = content["lm_head.weight"].double()
    exact = head / head.norm(dim=1, keepdim=True)
    half = torch.finfo(dtype).eps / 2  # one rounding, that of the result
    torch.testing.assert_close(written["lm_head.weight"].double(), exact, rtol=half * 1.01, atol=1e-7)
    kept = "model.layers.2.mlp.down_proj.weight"
    assert torch.equal(written[kept], content[kept])
    assert json.loads((tmp_path / "out" / "config.json").read_text())["torch_dtype"] == str(dtype)[6:]


def test_rows_are_scaled_in_blocks_and_zeros_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("omniner.convert.families.baichuan._BLOCK_ROWS", 3)
    rows = torch.randn(10, 4, generator=torch.Generator().manual_seed(0))
    rows[7] = 0
    scaled = unit_rows(rows)
    expected = [1.0] * 10
    expected[7] = 0.0
    assert scaled.norm(dim=1).tolist() == pytest.approx(expected)
    assert torch.allclose(scaled * rows.norm(dim=1, keepdim=True), rows)


_MEASURE = """
import sys, threading, time
from pathlib import Path
from omniner.convert.weights import convert_checkpoint
import safetensors

def anonymous():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) * 1024

convert_checkpoint(Path(sys.argv[1]), Path(sys.argv[2] + "_first"))  # what the libraries allocate once
peak, done, start = 0, False, anonymous()

def watch():
    global peak
    while not done:
        peak = max(peak, anonymous())
        time.sleep(0.0005)

thread = threading.Thread(target=watch)
thread.start()
convert_checkpoint(Path(sys.argv[3]), Path(sys.argv[2]))
done = True
thread.join()
print(peak - start)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from Linux's /proc")
@pytest.mark.parametrize("pickled", [True, False])
def test_memory_does_not_grow_with_the_checkpoint(tmp_path: Path, pickled: bool) -> None:
    small = write_checkpoint(tmp_path / "small", BAICHUAN2, baichuan2_weights(BAICHUAN2))
    config = {**BAICHUAN2, "hidden_size": 768, "intermediate_size": 2048, "num_hidden_layers": 4, "vocab_size": 4096}
    content = baichuan2_weights(config)
    total, largest = (f(value.nbytes for value in content.values()) for f in (sum, max))
    assert total > 130e6
    assert largest < 13e6
    source = write_checkpoint(tmp_path / "in", config, content, files=2, pickled=pickled)
    command = [sys.executable, "-c", _MEASURE, small, tmp_path / "out", source]
    answer = subprocess.run(command, capture_output=True, text=True, check=True)
    # The largest tensor twice (as read and as scaled), a block of its rows in float32, and room for the allocator.
    assert int(answer.stdout) < 3 * largest + 8e6
    assert len(_tensors(tmp_path / "out")) == 3 + 9 * 4


def test_an_interrupted_conversion_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write_checkpoint(tmp_path / "in", INTERNLM2, internlm2_weights(INTERNLM2))
    write, seen = weights._write_shard, []

    def interrupted(file: Any, tensors: Any, shard: Any) -> None:
        write(file, tensors, shard)
        seen.append(sorted(path.name for path in tmp_path.iterdir()))
        if len(seen) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(weights, "_write_shard", interrupted)
    with pytest.raises(KeyboardInterrupt):
        convert_checkpoint(source, tmp_path / "out", shard_bytes=20_000)
    assert all(len(names) == 2 and names[0].startswith(".out.") for names in seen)
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_a_killed_command_is_finished_by_the_same_one(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "in", INTERNLM2, internlm2_weights(INTERNLM2))
    kill = "import os; from omniner.convert import weights; weights._write_shard = lambda *_: os.kill(os.getpid(), 9)\n"
    main = "from omniner import run; run.main()"
    command = ["task=convert", "to=llama", "input=in", "output=out", "tracking=off"]
    for code, status in ((kill + main, -9), (main, 0)):
        done = subprocess.run(
            [sys.executable, "-c", code, *command], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert done.returncode == status, done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out", "outputs"]


def test_the_output_is_new_or_empty_and_has_usual_permissions(tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "in", INTERNLM2, internlm2_weights(INTERNLM2))
    (tmp_path / "out").mkdir()
    convert_checkpoint(source, tmp_path / "out")
    (tmp_path / "usual").mkdir()
    assert (tmp_path / "out").stat().st_mode == (tmp_path / "usual").stat().st_mode
    before = (tmp_path / "out" / "config.json").stat().st_mtime_ns
    with pytest.raises(UserError, match="is no empty folder"):
        convert_checkpoint(source, tmp_path / "out")
    with pytest.raises(UserError, match="is no empty folder"):
        convert_checkpoint(source, source)
    assert (tmp_path / "out" / "config.json").stat().st_mtime_ns == before
    convert_checkpoint(source, tmp_path / "deep" / "er" / "out")


def test_tables_that_follow_from_the_configuration_are_left_out(tmp_path: Path) -> None:
    content = baichuan2_weights(BAICHUAN2)
    table = {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)}
    convert_checkpoint(write_checkpoint(tmp_path / "in", BAICHUAN2, {**content, **table}), tmp_path / "out")
    assert len(_tensors(tmp_path / "out")) == 3 + 9 * 3


def test_safetensors_are_preferred_to_pickled_files(tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "in", BAICHUAN2, baichuan2_weights(BAICHUAN2))
    (source / "pytorch_model.bin").write_bytes(b"not read")
    convert_checkpoint(source, tmp_path / "out")
    assert "model.norm.weight" in _tensors(tmp_path / "out")


class _Attack:
    """What unpickling would run."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch {self.path}",)


def test_a_pickled_file_cannot_run_code(tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "in", BAICHUAN2, baichuan2_weights(BAICHUAN2), pickled=True)
    content = {**baichuan2_weights(BAICHUAN2), "model.norm.weight": _Attack(tmp_path / "attacked")}
    torch.save(content, source / "pytorch_model.bin")
    with pytest.raises(UserError, match="cannot be read"):
        convert_checkpoint(source, tmp_path / "out")
    assert not (tmp_path / "attacked").exists()


def _without(name: str) -> Callable[[Path], None]:
    def change(source: Path) -> None:
        content = load_file(source / "model.safetensors")
        del content[name]
        save_file(content, source / "model.safetensors")

    return change


def _with(name: str, value: Tensor) -> Callable[[Path], None]:
    def change(source: Path) -> None:
        save_file({**load_file(source / "model.safetensors"), name: value}, source / "model.safetensors")

    return change


def _torn(source: Path) -> None:
    path = source / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def _index(weight_map: dict[str, str]) -> Callable[[Path], None]:
    def change(source: Path) -> None:
        (source / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))

    return change


def _twice(source: Path) -> None:
    save_file({"output.weight": torch.zeros(2)}, source / "second.safetensors")
    _index({"a": "model.safetensors", "b": "second.safetensors"})(source)


def _settings(name: str, **changes: Any) -> Callable[[Path], None]:
    def change(source: Path) -> None:
        values = json.loads((source / name).read_text()) | changes
        (source / name).write_text(json.dumps({key: value for key, value in values.items() if value != "absent"}))

    return change


WQKV = "model.layers.1.attention.wqkv.weight"
BROKEN: dict[str, tuple[Callable[[Path], None], str]] = {
    "missing": (_without(WQKV), f"the checkpoint has no tensor {WQKV}"),
    "unexpected": (_with("v_head.weight", torch.zeros(1)), "the tensor v_head.weight has no place"),
    "shape": (_with(WQKV, torch.zeros(80, 47)), rf"{WQKV} has the shape \[80, 47\], not \[80, 48\]"),
    "precision": (_with(WQKV, torch.zeros(80, 48, dtype=torch.int8)), f"{WQKV} is neither float32"),
    "torn": (_torn, "model.safetensors: the weights cannot be read"),
    "none": (lambda source: (source / "model.safetensors").unlink(), "neither model.safetensors nor"),
    "absent file": (_index({"a": "model-00001.safetensors"}), "model-00001.safetensors"),
    "path in index": (_index({"a": "../in/model.safetensors"}), "names ../in/model.safetensors"),
    "no index": (_index({}), "the checkpoint has no tensor"),
    "in two files": (_twice, "the tensor output.weight is also in model.safetensors"),
    "other model": (_settings("config.json", model_type="internlm"), "model_type is 'internlm'"),
    "activation": (_settings("config.json", hidden_act="gelu"), "hidden_act is 'gelu'"),
    "tied": (_settings("config.json", tie_word_embeddings=True), "tie_word_embeddings is True"),
    "quantized": (_settings("config.json", quantization_config={"bits": 4}), "quantization_config is"),
    "scaling": (_settings("config.json", rope_scaling={"type": "yarn", "factor": 2}), "rope_scaling is"),
    "no base": (_settings("config.json", rope_theta="absent"), "rope_theta is None"),
    "heads": (_settings("config.json", num_attention_heads=7), "7 attention heads"),
    "groups": (_settings("config.json", num_key_value_heads=4), "cannot share 4"),
    "layers": (_settings("config.json", num_hidden_layers=0), "num_hidden_layers is 0"),
    "far too many layers": (_settings("config.json", num_hidden_layers=10**12), "num_hidden_layers is 1000000000000"),
    "more layers": (_settings("config.json", num_hidden_layers=4), "has no tensor model.layers.3."),
    "fewer layers": (_settings("config.json", num_hidden_layers=2), "model.layers.2.attention.wo.weight has no place"),
    "no object": (lambda source: (source / "config.json").write_text("[]") and None, "no JSON object"),
    "no json": (lambda source: (source / "config.json").write_text("{") and None, "not JSON"),
    "no config": (lambda source: (source / "config.json").unlink(), "config.json"),
    "no tokenizer": (lambda source: (source / "tokenizer.model").unlink(), "tokenizer.model"),
    "other tokenizer": (_settings("tokenizer_config.json", eos_token="<|end|>"), "the token <|end|> has no id"),
    "no token": (_settings("tokenizer_config.json", eos_token=7), "7 stands where a token belongs"),
    "no content": (_settings("tokenizer_config.json", eos_token={}), "{} stands where a token belongs"),
    "no id": (_settings("tokenizer_config.json", added_tokens_decoder={"a": "b"}), "has 'a' for an id"),
    "no settings": (lambda source: (source / "tokenizer_config.json").unlink(), "tokenizer_config.json"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_cannot_be_converted_is_one_error_and_no_output(tmp_path: Path, name: str) -> None:
    source = write_checkpoint(tmp_path / "in", INTERNLM2, internlm2_weights(INTERNLM2))
    change, message = BROKEN[name]
    change(source)
    with pytest.raises(UserError, match=message):
        convert_checkpoint(source, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_position_embeddings": "absent"}, "Baichuan2-13B"),
        ({"num_attention_heads": 40, "hidden_size": 320}, "Baichuan2-13B"),
        ({"z_loss_weight": "absent"}, "Baichuan 1"),
        ({"rope_theta": 1e6}, "rope_theta is 1000000.0"),
        ({"num_key_value_heads": 2}, "num_key_value_heads is 2"),
    ],
)
def test_other_models_named_baichuan_are_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    source = write_checkpoint(tmp_path / "in", BAICHUAN2, baichuan2_weights(BAICHUAN2))
    _settings("config.json", **changes)(source)
    with pytest.raises(UserError, match=message):
        convert_checkpoint(source, tmp_path / "out")


def test_the_tokenizer_must_fit_the_embedding(tmp_path: Path) -> None:
    config = {**INTERNLM2, "vocab_size": 200}
    source = write_checkpoint(tmp_path / "in", config, internlm2_weights(config))
    with pytest.raises(UserError, match="tokens and the model has 200"):
        convert_checkpoint(source, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_a_full_disk_is_said_before_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write_checkpoint(tmp_path / "in", INTERNLM2, internlm2_weights(INTERNLM2))
    usage = weights.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(weights.shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(UserError, match=r"0\.0 GB left"):
        convert_checkpoint(source, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not a folder"):
        convert_checkpoint(tmp_path / "in", tmp_path / "out")
