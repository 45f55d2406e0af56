"""vLLM is started, asked and ended: a stand-in for its server says what it was started with and asked."""

from __future__ import annotations

import dataclasses
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import small_causal
import small_corpus
import torch
from scripted_server import reply, serving

from omniner.config import compose
from omniner.config.model_groups import CausalConfig, DecodingConfig
from omniner.errors import UserError
from omniner.llm import language_model
from omniner.llm.prompts import TEMPLATE_OPTIONS
from omniner.llm.serving import vllm_engine
from omniner.llm.serving.vllm_engine import ServedModel, predict_with_vllm
from omniner.records import Prediction, Sentence
from omniner.run import run

STAND_IN = """
import http.server, json, os, sys, time
arguments, place = sys.argv[2:], {place!r}
with open(place + "/started", "w") as file:
    json.dump(arguments, file)
with open(place + "/no_reports", "w") as file:
    file.write(os.environ.get("VLLM_NO_USAGE_STATS", ""))
mode = {mode!r}
if mode == "broken":
    sys.exit("ValueError: no GPU has enough memory")
if mode == "silent":
    time.sleep(60)

class Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *rest):
        pass
    def answer(self, value):
        body = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def do_GET(self):
        self.answer({{"data": [{{"id": "vllm"}}]}})
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with open(place + "/asked", "a") as file:
            file.write(json.dumps(body) + "\\n")
        if mode == "dying":
            sys.stderr.write("RuntimeError: the engine is gone\\n")
            sys.stderr.flush()
            os._exit(3)
        text = '[["张三", "人名"]]'
        choice = {{"index": 0, "finish_reason": "stop", "message": {{"role": "assistant", "content": text}}}}
        self.answer({{"choices": [choice], "usage": {{"prompt_tokens": 1, "completion_tokens": 1}}}})

port = int(arguments[arguments.index("--port") + 1])
http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()
"""
SENTENCES = [Sentence(str(number), f"张三在第{number}条街") for number in range(5)]


def config(folder: Path, mode: str = "good", **changes: Any) -> DecodingConfig:
    script = folder / "stand_in.py"
    script.write_text(STAND_IN.format(place=str(folder), mode=mode), encoding="utf-8")
    made = small_corpus.configuration("qwen2_tiny", "task=predict", "decoding=vllm").decoding
    made.command, made.retries, made.start_seconds = [sys.executable, str(script), "serve"], 0, 60
    for name, value in changes.items():
        setattr(made, name, value)
    return made


def answers(made: DecodingConfig, model: Path | ServedModel, done: frozenset[str] = frozenset()) -> list[Prediction]:
    batches = predict_with_vllm(made, model, small_causal.PROMPT, SENTENCES, done)
    return [prediction for batch in batches for prediction in batch]


def started(folder: Path) -> list[str]:
    return list(json.loads((folder / "started").read_text()))


def options(command: list[str]) -> dict[str, str]:
    """The options of a command line, with their values."""
    return {
        word: "" if number + 1 == len(command) or command[number + 1].startswith("--") else command[number + 1]
        for number, word in enumerate(command)
        if word.startswith("--")
    }


def test_a_server_is_started_asked_and_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")  # which is not asked about this machine
    found = answers(config(tmp_path), ServedModel("some/model"), frozenset({"4"}))
    assert sorted(one.id for one in found) == ["0", "1", "2", "3"]
    assert all(one.entities[0].text == "张三" and one.engine == "openai:vllm" for one in found)
    asked = [json.loads(line) for line in (tmp_path / "asked").read_text().splitlines()]
    assert {one["model"] for one in asked} == {"vllm"}
    assert asked[0]["messages"][-1]["content"].startswith("请从句子里抽取实体")
    assert all(one["chat_template_kwargs"] == TEMPLATE_OPTIONS for one in asked)
    said = started(tmp_path)
    assert said[0] == "some/model"
    assert options(said) == {
        "--host": "127.0.0.1",
        "--port": options(said)["--port"],
        "--generation-config": "vllm",
        "--enable-prefix-caching": "",
        "--served-model-name": "vllm",
    }
    assert (tmp_path / "no_reports").read_text() == "1", "its makers learn nothing"
    assert not [one for one in psutil.Process().children(recursive=True) if "stand_in.py" in " ".join(one.cmdline())]


def test_guided_answers_and_further_options(tmp_path: Path) -> None:
    made = config(tmp_path, kind="guided", options={"tensor-parallel-size": 4, "enable-prefix-caching": None})
    answers(made, ServedModel("some/model"))
    said = options(started(tmp_path))
    assert said["--structured-outputs-config.backend"] == "guidance"
    assert said["--tensor-parallel-size"] == "4"
    assert "--enable-prefix-caching" not in said
    asked = json.loads((tmp_path / "asked").read_text().splitlines()[0])
    assert "grammar" in asked["structured_outputs"]


@pytest.mark.parametrize("method", ["full", "lora", "qlora"])
def test_a_trained_model_is_served_as_it_is_kept(tmp_path: Path, method: str) -> None:
    small_causal.save(tmp_path / "base")
    folder = tmp_path / "best"
    language_model.save_causal_model(folder, small_causal.build(method, tmp_path / "base"))
    answers(config(tmp_path), folder)
    said = started(tmp_path)
    if method == "full":
        assert said[0] == str(folder)
    elif method == "lora":
        assert said[0] == str(tmp_path / "base")
        assert options(said)["--lora-modules"] == f"vllm={folder}"
        assert (options(said)["--max-lora-rank"], "--enable-lora" in said) == ("8", True)  # 4 is none of vLLM's
    else:  # learnt beside 4 bits: merged, for as long as the server runs
        assert said[0].endswith("/merged")
        assert not Path(said[0]).exists()
        with pytest.raises(UserError, match="task=convert to=merged"):
            vllm_engine.served_checkpoint(folder, None)
    if method == "lora":
        (tmp_path / "base" / "model.safetensors").write_bytes(b"another model")
        with pytest.raises(UserError, match=r"omniner\.json: these adapters did not learn beside the weights"):
            vllm_engine.served_checkpoint(folder, None)


def test_a_server_is_told_what_the_trained_model_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    causal = small_causal.build("full")
    language_model.save_causal_model(tmp_path / "best", causal)
    with serving(lambda request, before: reply('[["张三", "人名"]]')) as server:
        arguments = ["task=predict", "checkpoint=best", "decoding=openai", f"decoding.url={server.url}", "tracking=off"]
        run(compose.load([*arguments, "text=张三好"]))
    assert server.seen[0].body["messages"] == causal.prompt.messages("张三好")
    assert "[张三|人名]好" in capsys.readouterr().out
    (tmp_path / "tagger.ckpt").write_bytes(b"")
    with pytest.raises(UserError, match="is a tagger, which no server of language models has"):
        vllm_engine.trained_prompt(tmp_path / "tagger.ckpt")


WITHOUT_SYSTEM = {
    "refused": "{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    "<|im_start|>{{ m['content'] }}<|im_end|>{% endfor %}",
    "passed over": "{% for m in messages if m['role'] != 'system' %}<|im_start|>{{ m['content'] }}<|im_end|>"
    "{% endfor %}",
}


def without_system(folder: Path, how: str) -> language_model.CausalModel:
    """A trained model in this folder whose chat template has no system role."""
    config, tuning = small_causal.model_config(chat_template=WITHOUT_SYSTEM[how]), small_causal.tuning_config("full")
    texts, dtype = small_causal.TEXTS, torch.float32
    causal = language_model.build_causal_model(config, tuning, small_causal.PROMPT, texts, dtype, seed=3, trains=True)
    language_model.save_causal_model(folder, causal)
    return causal


@pytest.mark.parametrize("how", WITHOUT_SYSTEM)
@pytest.mark.parametrize("engine", ["openai", "vllm"])
def test_a_server_is_asked_as_in_training_where_a_template_has_no_system_role(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: str, how: str
) -> None:
    """What the server's template makes of the request is what the model learnt from, character by character."""
    monkeypatch.chdir(tmp_path)
    causal = without_system(tmp_path / "best", how)
    if engine == "vllm":
        answers(config(tmp_path), tmp_path / "best")
        asked = [json.loads(line) for line in (tmp_path / "asked").read_text().splitlines()]
    else:
        with serving(lambda request, before: reply("[]")) as server:
            arguments = ["checkpoint=best", "decoding=openai", f"decoding.url={server.url}", "decoding.model=tiny"]
            run(compose.load(["task=predict", *arguments, f"text={SENTENCES[0].text}", "tracking=off"]))
        asked = [request.body for request in server.seen]
    rendered = {
        causal.chat.tokenizer.apply_chat_template(one["messages"], tokenize=False, **one["chat_template_kwargs"])
        for one in asked
    }
    chats = causal.prompt.filled_inputs([sentence.text for sentence in SENTENCES[: len(asked)]])
    assert rendered == {causal.chat.write(causal.prompt, given) for given in chats}
    assert all(causal.prompt.system in text for text in rendered)


def test_the_command_that_serves_a_model_tells_its_template_what_it_was_told(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.chdir(tmp_path)
    language_model.save_causal_model(tmp_path / "best", small_causal.build("full"))

    def printed(folder: str, *overrides: str) -> dict[str, str]:
        capsys.readouterr()
        run(compose.load(["task=convert", "to=serve", f"checkpoint={folder}", "tracking=off", *overrides]))
        return options(shlex.split(capsys.readouterr().out))

    assert json.loads(printed("best")["--default-chat-template-kwargs"]) == TEMPLATE_OPTIONS
    own = printed("best", "+decoding.extra_body.chat_template_kwargs.enable_thinking=true")
    assert json.loads(own["--default-chat-template-kwargs"]) == {**TEMPLATE_OPTIONS, "enable_thinking": True}
    assert "--default-chat-template-kwargs" not in printed("best", "+decoding.extra_body.chat_template_kwargs=null")
    older = printed("best", "+decoding.options={default-chat-template-kwargs: null}")  # a vLLM without the option
    assert "--default-chat-template-kwargs" not in older
    assert "system role" not in caplog.text
    without_system(tmp_path / "other", "refused")
    printed("other")
    assert "the model's chat template has no system role: clients must put its text" in caplog.text


def test_a_folder_with_a_gguf_file_is_one(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    for path in (tmp_path, tmp_path / "model.gguf"):
        with pytest.raises(UserError, match="a GGUF file cannot be served"):
            vllm_engine.served_base(causal(path))


def causal(path: Path | str, revision: str | None = None) -> CausalConfig:
    config = small_corpus.configuration("qwen2_tiny").model
    assert isinstance(config, CausalConfig)
    return dataclasses.replace(config, path=str(path), revision=revision)


def test_an_untuned_model_is_served_at_its_revision(tmp_path: Path) -> None:
    decoding = compose.load(["decoding=vllm", "model=qwen2_0_5b", "task=predict", "text=a"]).decoding
    command = vllm_engine.serve_command(decoding, vllm_engine.served_base(causal("org/small", "v1")), {})
    at = command.index("--revision")
    assert command[at : at + 4] == ["--revision", "v1", "--tokenizer-revision", "v1"]
    assert not [one for one in vllm_engine.serve_command(decoding, ServedModel("org/small"), {}) if "revision" in one]
    with pytest.raises(UserError, match=r"^model\.revision: v1, but model\.path=.* is on this machine"):
        vllm_engine.served_base(causal(tmp_path, "v1"))


@pytest.mark.parametrize(
    ("mode", "changes", "match"),
    [
        ("broken", {}, "vLLM has ended: ValueError: no GPU has enough memory"),
        ("dying", {}, "vLLM has ended: RuntimeError: the engine is gone"),
        ("silent", {"start_seconds": 1}, r"decoding\.start_seconds: vLLM does not answer after 1 s"),
        ("good", {"command": ["no-such-program", "serve"]}, r"decoding\.command: vLLM is not there"),
    ],
)
def test_what_goes_wrong_is_one_line(tmp_path: Path, mode: str, changes: dict[str, Any], match: str) -> None:
    with pytest.raises(UserError, match=match):
        answers(config(tmp_path, mode, **changes), ServedModel("some/model"))


def test_a_server_ends_with_the_process_that_started_it(tmp_path: Path) -> None:
    """Killed, too, which leaves nobody to end it."""
    made = config(tmp_path)
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom omniner.llm.serving import vllm_engine\n"
        f"command, log = {[*made.command, 'm', '--port', '0']!r}, Path({str(tmp_path / 'log')!r})\n"
        "with vllm_engine.running_server(command, log, 60, 'http://127.0.0.1:9'):\n    pass\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    end = time.monotonic() + 60
    while not (tmp_path / "started").exists():
        assert time.monotonic() < end
        time.sleep(0.05)
    found = [one for one in psutil.Process(process.pid).children(recursive=True) if "serve" in one.cmdline()]
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    _, alive = psutil.wait_procs(found, timeout=30)
    assert found
    assert not alive
