"""Predict with a vLLM server that runs beside this process while it is used; vLLM is never imported here.

This is for models and corpora that are too large for decoding in this process: several GPUs for one model, thousands of
sentences at a time. The server is started with the model of a run, used like any other server (`openai_engine`), and
ended. It caches the prefix that all prompts share (prefix caching) and, if guided, the grammar of answers
(structured outputs).

Adapters are loaded beside their base. Those that were trained on 4-bit weights, or on a base that is stored nowhere
else, are merged into a temporary folder.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import signal
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from omniner.config.model_groups import CausalConfig, DecodingConfig
from omniner.errors import UserError, one_line
from omniner.files import read_json
from omniner.llm.prompts import Prompt
from omniner.llm.serving.openai_engine import predict_with_server, with_template_options
from omniner.machine import free_port
from omniner.model_files import check_base, check_revision, gguf_file
from omniner.records import Prediction, Sentence

log = logging.getLogger("omniner")

NAME = "vllm"  # name of the model on the server, and so in predictions
_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # ranks of adapters that vLLM accepts
_PAUSE = 0.5  # seconds between two checks of a starting server
_ENDING = 2.0  # seconds: a server that ends breaks its connections first
_GRACE_SECONDS = 30.0  # seconds for a server to end by itself
_TAIL = 20_000  # bytes of its output in which the reason of its end is searched for
# The server ends when its standard input does, and so also when this process is killed.
_WATCHED = """
exec 3<&0
"$@" </dev/null &
server=$!
{ cat <&3 >/dev/null; kill -TERM $server 2>/dev/null; } &
wait $server
"""


class ServedModel(NamedTuple):
    """The model that a server loads.

    Attributes:
        path: folder or hub name of a model.
        adapters: folder of adapters for it; None = none.
        rank: of the adapters.
        revision: commit, tag or branch of a hub model; None = its main branch.
    """

    path: str
    adapters: Path | None = None
    rank: int = 0
    revision: str | None = None


def served_checkpoint(checkpoint: Path, merged: Path | None) -> tuple[ServedModel, Prompt]:
    """Return what a server must load to answer as a trained model does, and its prompt.

    Args:
        checkpoint: the folder of a trained causal model.
        merged: where to merge adapters that cannot be served with their base; None = they are rejected.

    Raises:
        UserError: it is a tagger, or its adapters must be merged first.
    """
    from omniner.llm import language_model

    prompt = trained_prompt(checkpoint)
    description = language_model.read_description(checkpoint)
    method, base = description["method"], description["base"]
    if method == "full":
        return ServedModel(str(checkpoint)), prompt
    if method == "lora" and base is not None and gguf_file(str(base)) is None:
        check_base(checkpoint, description)
        rank = int(read_json(checkpoint / "adapter_config.json")["r"])
        return ServedModel(str(base), checkpoint, rank, description.get("base_revision")), prompt
    if merged is None:
        found = f"the adapters in {checkpoint} cannot be served beside their base"
        fix = f"Merge them: task=convert to=merged checkpoint={checkpoint} output=<folder>; then model.path=<folder>."
        raise UserError("checkpoint", found, fix)
    import torch

    language_model.write_merged_model(checkpoint, merged, torch.bfloat16)
    return ServedModel(str(merged)), prompt


def trained_prompt(checkpoint: Path) -> Prompt:
    """Return the prompt of a trained causal model.

    Args:
        checkpoint: its folder.

    Raises:
        UserError: it is a tagger.
    """
    if not checkpoint.is_dir():
        found = f"{checkpoint} is a tagger, which no server of language models has"
        raise UserError("checkpoint", found, "Use decoding=free.")
    from omniner.llm.language_model import read_description

    return Prompt.from_json(read_description(checkpoint)["prompt"])


def has_system_role(checkpoint: Path) -> bool:
    """Return whether requests to a trained causal model can have a system role: not if its chat template refuses or
    passes over it, as Gemma's does.

    Args:
        checkpoint: its folder.
    """
    from omniner.llm.language_model import load_chat, read_description

    return load_chat(checkpoint, read_description(checkpoint)).system_role


def served_base(model: CausalConfig | None) -> ServedModel:
    """Return what a server must load for an untuned model.

    Raises:
        UserError: it has random weights, is a GGUF file, or is a folder with a revision.
    """
    path, revision = (model.path, model.revision) if model is not None else (None, None)
    if path is None or gguf_file(path) is not None:
        found = "random weights" if path is None else f"{path}, a GGUF file"
        raise UserError("model.path", f"{found} cannot be served", "Name a folder or a hub model (task=convert).")
    check_revision(path, revision)
    return ServedModel(path, revision=revision)


def serve_command(config: DecodingConfig, served: ServedModel, listen: Mapping[str, Any]) -> list[str]:
    """Return the command line that serves a model.

    Args:
        config: `command` begins it, `options` override and add; guided answers need a backend.
        served: the model.
        listen: options for the server's address.
    """
    options: dict[str, Any] = {**listen, "generation-config": "vllm", "enable-prefix-caching": True}
    if served.adapters is None:
        options["served-model-name"] = NAME
    else:
        rank = next((rank for rank in _RANKS if rank >= served.rank), _RANKS[-1])
        adapters = {"lora-modules": f"{NAME}={served.adapters}", "max-lora-rank": rank}
        options |= {"enable-lora": True, **adapters, "tokenizer": served.adapters}
    if served.revision:
        options["revision"] = served.revision
        if served.adapters is None:  # their folder has the tokenizer
            options["tokenizer-revision"] = served.revision
    if config.kind == "guided":
        options["structured-outputs-config.backend"] = "guidance"
    command = [*config.command, served.path]
    for name, value in {**options, **config.options}.items():
        if value is True:
            command.append(f"--{name}")
        elif value not in (None, False):
            command += [f"--{name}", str(value)]
    return command


def predict_with_vllm(
    config: DecodingConfig,
    model: Path | ServedModel,
    prompt: Prompt | None,
    sentences: Sequence[Sentence],
    done: frozenset[str],
) -> Iterator[list[Prediction]]:
    """Start a server, ask it about the sentences that are not `done`, and end it.

    Args:
        config: settings of starting, requests and decoding.
        model: the checkpoint of a trained model, or an untuned model.
        prompt: for an untuned model; a trained one has its own.
        sentences: with different ids.
        done: ids of sentences that already have their predictions.

    Yields:
        Predictions, batch by batch as the answers arrive.

    Raises:
        UserError: the server cannot be started, ends, or cannot be used.
    """
    if all(sentence.id in done for sentence in sentences):
        return
    system_role = True
    with tempfile.TemporaryDirectory() as folder:
        if isinstance(model, Path):
            checkpoint = model
            model, prompt = served_checkpoint(checkpoint, Path(folder) / "merged")
            system_role = has_system_role(checkpoint)
        assert prompt is not None, "a published model is told what to do"
        with serving_model(config, model) as asked:
            yield from predict_with_server(asked, prompt, sentences, done, system_role=system_role)


@contextlib.contextmanager
def serving_model(config: DecodingConfig, model: ServedModel) -> Iterator[DecodingConfig]:
    """Run a server with a model for the block.

    Args:
        config: settings of starting, requests and decoding.
        model: the model to load.

    Yields:
        The settings with which it is used, like any server.

    Raises:
        UserError: it cannot be started, or ends.
    """
    port = free_port()
    structured = "vllm" if config.kind == "guided" else config.structured
    url = f"http://127.0.0.1:{port}"
    command = serve_command(config, model, {"host": "127.0.0.1", "port": port})
    with (
        tempfile.TemporaryDirectory() as folder,
        running_server(command, Path(folder) / "log", config.start_seconds, url),
    ):
        asked = dataclasses.replace(config, engine="openai", url=f"{url}/v1", model=NAME, structured=structured)
        yield with_template_options(asked)


@contextlib.contextmanager
def running_server(command: Sequence[str], output: Path, seconds: float, url: str) -> Iterator[None]:
    """Run a server for the block, which begins as soon as it answers.

    Args:
        command: its command line.
        output: a file for its output.
        seconds: time until it must answer.
        url: its address, where it answers `/health`.

    Raises:
        UserError: it ends, or does not answer in time.
    """
    log.info("starting %s", " ".join(command))
    with output.open("wb") as file:
        server = subprocess.Popen(
            ["sh", "-c", _WATCHED, "sh", *command],
            stdin=subprocess.PIPE,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={"VLLM_NO_USAGE_STATS": "1", **os.environ},  # it would report the machine and the model to its makers
        )
    try:
        _wait_until_ready(server, output, seconds, url)
        try:
            yield
        except UserError as error:
            with contextlib.suppress(subprocess.TimeoutExpired):
                server.wait(_ENDING)
            if server.returncode is not None:
                raise _ended_error(server, output) from error
            raise
    finally:
        _stop(server)


def _wait_until_ready(server: subprocess.Popen[bytes], output: Path, seconds: float, url: str) -> None:
    end = time.monotonic() + seconds
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # a proxy would look on its own machine
    while True:
        if server.poll() is not None:
            raise _ended_error(server, output)
        with contextlib.suppress(OSError, urllib.error.URLError), direct.open(f"{url}/health", timeout=5):
            return
        if time.monotonic() > end:
            found = f"vLLM does not answer after {seconds:.0f} s (last words: {_last_words(output)})"
            raise UserError("decoding.start_seconds", found, "Raise it, or try the command by itself.")
        time.sleep(_PAUSE)


def _ended_error(server: subprocess.Popen[bytes], output: Path) -> UserError:
    if server.returncode == 127:  # the shell's own
        return UserError("decoding.command", f"vLLM is not there ({_last_words(output)})", "pip install vllm")
    return UserError("decoding", f"vLLM has ended: {_last_words(output)}", "Mend that, in decoding.options perhaps.")


def _last_words(output: Path) -> str:
    """Return the last line of a server's output that looks like a reason."""
    text = output.read_bytes()[-_TAIL:].decode(errors="replace")
    lines = [line.strip() for line in text.splitlines() if line.strip()] or ["nothing"]
    return one_line(RuntimeError(next((line for line in reversed(lines) if "Error" in line), lines[-1])))


def _stop(server: subprocess.Popen[bytes]) -> None:
    """End a server and all that it started, with a signal only if it does not end by itself."""
    assert server.stdin is not None
    server.stdin.close()
    with contextlib.suppress(subprocess.TimeoutExpired):
        server.wait(_GRACE_SECONDS)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(server.pid, signal.SIGKILL)
    server.wait()
