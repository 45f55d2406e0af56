"""Names, addresses and places: nothing is written, sent or replaced where the user did not mean it."""

from __future__ import annotations

import contextlib
import csv
import io
import os
import stat
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from omniner.config import compose
from omniner.errors import UserError, masked
from omniner.files import check_input_file, explaining_limits, write_text, writing_folder
from omniner.llm.serving.client import ChatClient, ChatRequest, ServerError
from omniner.llm.serving.responses import Refusal, Reply
from omniner.report.tables import Column, Table
from omniner.run import run
from omniner.runs import children, outputs
from omniner.runs.context import Context
from omniner.runs.folder import LOCK, claim_folder
from omniner.tracking.tracked_run import Run
from tests.e2e.conftest import SENTENCE
from tests.helpers.scripted_server import KEY, Answer, Seen, config, reply, serving


@pytest.mark.parametrize("name", ["../x", "/tmp/x", "a/../../x", "..", ".", "a\0b", ""])
def test_a_name_that_leads_elsewhere_is_refused(name: str, here: Path) -> None:
    for key in ("name", "data.name"):
        with pytest.raises(UserError, match=f"^{key}: "):
            compose.load([f"{key}='{name}'", "task=check"])


@pytest.mark.parametrize("key", ["output_dir", "input", "tracking.folder", "data.root", "tracking.experiment"])
def test_a_nul_character_is_refused_in_every_key(key: str) -> None:
    with pytest.raises(UserError, match=f"{key}: .*NUL"):
        compose.load([f"{key}='a\0b'", "task=check"])


ADDRESSES = [
    "http://me:s3cret@host:5000", "https://me:s3c@ret@host/v1", "http://me:s3/cret@host/", "http://s3cret@host",
    "http://host/v1?api_key=s3cret", "http://host/v1?x=1&access_token=s3cret#a", "http://[::1]:80/?token=s3cret",
]  # fmt: skip


@pytest.mark.parametrize("address", ADDRESSES)
def test_a_login_in_an_address_is_refused_and_masked(address: str) -> None:
    for key, remedy in (
        ("tracking.uri", "MLFLOW_TRACKING_PASSWORD"),
        ("decoding.url", "decoding.api_key_env"),
        ("teacher.url", "teacher.api_key_env"),
    ):
        with pytest.raises(UserError, match=f"^{key}: .*login.*{remedy}") as caught:
            compose.load([f"{key}='{address}'", "task=check"])
        assert "s3c" not in str(caught.value)
    for text in (address, f"see ({address}) and {address}, too", f"'{address}'"):
        assert "s3c" not in masked(text)
        assert "cret" not in masked(text)


@pytest.mark.parametrize(
    "text",
    ["http://host:5000/a@b", "mail me@host", "https://host/v1?monkey=1&x=token", "http://[::1]:8000/v1", "a:b@c"],
)
def test_what_holds_no_login_stays_as_it_is(text: str) -> None:
    assert masked(text) == text


def test_a_long_word_is_masked_in_no_time() -> None:
    begin = time.process_time()
    assert masked(f"http://me:s3cret@host {'a' * 200_000}").startswith("http://***@host a")
    assert time.process_time() - begin < 5


def test_a_message_is_one_line_without_control_characters() -> None:
    error = UserError("a\nb", "the id \x1b[31m\r\u2028\u202e", "Do\nit.")
    assert str(error) == r"a\nb: the id \x1b[31m\r\u2028\u202e. Do\nit."
    assert str(UserError("数据", "‘\u3000’ 😀", "好。")) == "数据: ‘\u3000’ 😀. 好。"


def _ask(url: str) -> Reply | Refusal | ServerError:
    with contextlib.closing(ChatClient(config(url), "decoding")) as client:
        return client.ask(ChatRequest([{"role": "user", "content": "秘密"}], {}))


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_to_another_server_is_not_followed(status: int) -> None:
    def elsewhere(request: Seen, before: int) -> Answer:
        return Answer(status, {}, {"location": f"{other.url}/chat/completions"})

    with serving(lambda request, before: reply("[]")) as other, serving(elsewhere) as first:
        with pytest.raises(UserError, match=r"decoding\.url: .* redirects to another server, http://127.*set decoding"):
            _ask(first.url)
        assert other.seen == []


def test_a_redirect_on_the_same_server_is_followed() -> None:
    def once(request: Seen, before: int) -> Answer:
        return reply("[]") if before else Answer(307, {}, {"location": "/v1/chat/completions"})

    with serving(once) as server:
        answer = _ask(server.url)
    assert answer == Reply("[]", "stop")


def test_a_key_that_a_server_repeats_is_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY, "sk-planted-secret")
    with serving(lambda request, before: reply(f"the key is {request.headers['authorization']}")) as server:
        answer = _ask(server.url)
        assert server.seen[0].headers["authorization"].endswith("sk-planted-secret")
    assert answer == Reply("the key is Bearer ***", "stop")


def test_no_cell_of_a_csv_file_is_a_formula() -> None:
    cells = ["=1+1", "+cmd|' /C calc'!A0", "-2+3", "@SUM(A1)", "\t=1", "\n=1", "平常", "-0.5", -0.5]
    table = Table("t", [Column("=name", "text")], [[cell] for cell in cells])
    [[head], *rows] = list(csv.reader(io.StringIO(table.to_csv(), newline="")))
    assert head == "'=name"
    assert [row[0] for row in rows] == [*(f"'{cell}" for cell in cells[:6]), "平常", "-0.5", "-0.5"]


def test_the_folder_of_gpu_locks_is_the_users_alone(tmp_path: Path) -> None:
    made = children._private_folder(tmp_path / "locks")
    assert stat.S_IMODE(made.stat().st_mode) == 0o700
    made.chmod(0o777)
    assert stat.S_IMODE(children._private_folder(made).stat().st_mode) == 0o700
    (tmp_path / "link").symlink_to(made)
    with pytest.raises(UserError, match="belongs to somebody else"):
        children._private_folder(tmp_path / "link")
    if os.getuid() == 0:
        os.chown(made, 12345, 12345)
        with pytest.raises(UserError, match="belongs to somebody else"):
            children._private_folder(made)


# What is read


def _fifo(path: Path) -> None:
    os.mkfifo(path)


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (_fifo, "a pipe, which can be read only once"),
        (lambda path: path.write_bytes(b"\x1f\x8b\x08\x00abc"), r"packed data \(gzip\)"),
        (lambda path: path.mkdir(), "a folder|not a file|Is a directory|holds no|no file is called after"),
    ],
    ids=["pipe", "gzip", "folder"],
)
def test_what_is_no_file_is_refused_at_once(make: Callable[[Path], object], expected: str, here: Path) -> None:
    make(here / "odd.jsonl")
    commands = [
        ["task=score", "predictions=p.jsonl", "gold=odd.jsonl"],
        ["task=convert", "input=odd.jsonl", "to=jsonl", "output=new.jsonl"],
        ["task=adjudicate", "annotators=[odd.jsonl,p.jsonl]"],
        ["task=stats", "corpora=[odd.jsonl]"],
        ["task=predict", "input=odd.jsonl", "checkpoint=p.jsonl"],
    ]
    for command in commands:
        with pytest.raises(UserError, match=expected):
            run(compose.load([*command, "tracking=off"]))
    assert not (here / "new.jsonl").exists()


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), "memory: .*Give it more"),
        (RuntimeError("[enforce] DefaultCPUAllocator: can't allocate memory: you tried"), "memory: .*Give it more"),
        (RuntimeError("CUDA out of memory. Tried to allocate"), "memory: .*batch_size"),
        (ImportError("libx.so: failed to map segment from shared object"), "memory: .*Give it more"),
        (RuntimeError("can't start new thread"), "threads: no more can be started"),
        (OSError(24, "Too many open files", "a.txt"), r"a\.txt: Too many open files\. Raise the limit of open files"),
        (RuntimeError("Error: I/O error: No space left on device (os error 28)"), "No space left.*Free some space"),
    ],
)
def test_what_the_machine_refuses_is_one_line(error: Exception, expected: str) -> None:
    with pytest.raises(UserError, match=expected), explaining_limits():
        raise error


def test_other_errors_stay_what_they_are() -> None:
    with pytest.raises(RuntimeError, match="a fault"), explaining_limits():
        raise RuntimeError("a fault")


def test_a_plain_file_passes(here: Path) -> None:
    check_input_file(here / "p.jsonl")
    check_input_file("/dev/null")


# What is replaced

CONVERT = ["task=convert", "input=p.jsonl", "to=jsonl", "tracking=off"]


def test_an_output_of_another_command_stays(here: Path) -> None:
    (here / "mine.jsonl").write_text("mine", encoding="utf-8")
    for target in ("mine.jsonl", "p.jsonl"):
        with pytest.raises(UserError, match=f"output: .*{target} is there already.*overwrite=true"):
            run(compose.load([*CONVERT, f"output={target}"]))
    assert (here / "mine.jsonl").read_text() == "mine"
    assert (here / "p.jsonl").read_text(encoding="utf-8") == SENTENCE
    run(compose.load([*CONVERT, "output=mine.jsonl", "overwrite=true"]))
    assert "小满" in (here / "mine.jsonl").read_text(encoding="utf-8")


def test_the_same_command_replaces_what_it_made_unless_somebody_changed_it(here: Path) -> None:
    command = compose.load([*CONVERT, "output=new.jsonl"])
    for _ in range(2):
        run(command)
    write_text(here / "new.jsonl", "changed by hand")
    with pytest.raises(UserError, match="is there already"):
        run(command)


def test_a_run_folder_of_another_command_stays(here: Path) -> None:
    score = ["task=score", "predictions=p.jsonl", "metrics.bootstrap=0", "tracking=off", "output_dir=out"]
    run(compose.load(score))
    with pytest.raises(UserError, match=r"out holds the run of another command \(task=score\).*overwrite=true"):
        claim_folder(compose.load(["task=check", "output_dir=out", "tracking=off"]))
    assert (here / "out/scores.json").is_file()
    run(compose.load(score))  # the same one may


@pytest.mark.parametrize("task", ["adjudicate", "split", "score", "train"])
def test_files_that_no_run_made_stay(here: Path, task: str) -> None:
    names = {"adjudicate": "gold.jsonl", "split": "corpus", "score": "scores.json", "train": "predictions.jsonl"}
    inputs = {"adjudicate": ["annotators=[p.jsonl,gold.jsonl]"], "score": ["predictions=p.jsonl"]}
    (here / "out").mkdir()
    write_text(here / "out" / names[task], "mine")
    command = [f"task={task}", "output_dir=out", *inputs.get(task, [])]
    with pytest.raises(UserError, match=f"out holds {names[task]}, which this run would replace.*overwrite=true"):
        claim_folder(compose.load(command))
    assert (here / "out" / names[task]).read_text() == "mine"


def test_what_a_killed_process_left_half_written_is_swept(here: Path) -> None:
    first = claim_folder(compose.load(["name=a"]))
    for place in ("", "tables", "children", "children/one", "checkpoints"):
        (first.path / place).mkdir(parents=True, exist_ok=True)
        (first.path / place / ".scores.json.abcd1234.tmp").touch()
    (first.path / "children/one" / LOCK).touch()
    first.close()
    second = claim_folder(compose.load(["name=a"]))
    second.close()
    left = [str(path.parent.relative_to(second.path)) for path in second.path.rglob("*.tmp")]
    assert left == ["children/one"], "a child sweeps its own folder: it may be alive"


def test_an_output_that_another_process_is_writing_is_left_to_it(here: Path) -> None:
    command = compose.load(["task=split", "data.size={train: 24, dev: 8, test: 8}", "output=corpus", "tracking=off"])
    other = claim_folder(command)
    context = Context(command, other.path, Run())
    with outputs.replacing(context, Path("corpus")), writing_folder("corpus") as half:
        write_text(half / "train.jsonl", "the other's")
        with pytest.raises(UserError, match=r"output: another process is writing .*corpus"):
            run(command)
    other.close()
    assert [path.name for path in (here / "corpus").iterdir()] == ["train.jsonl"]
    run(command)
    assert len(list((here / "corpus").iterdir())) == 3
    assert not list(here.glob(".corpus*"))


def test_an_output_that_is_no_file_is_refused(here: Path) -> None:
    os.mkfifo(here / "pipe")
    with pytest.raises(UserError, match=r"output: .*pipe is no file and no folder"):
        run(compose.load([*CONVERT, "output=pipe", "overwrite=true"]))
    assert (here / "pipe").is_fifo()
