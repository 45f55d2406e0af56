"""What is known of a task stands in its entry: one that is added is known everywhere."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from omniner import run
from omniner.config import compose
from omniner.errors import UserError
from omniner.registry import TASKS
from omniner.runs import folder
from omniner.runs.context import Context, Input, Task, entry_label, split_entry
from omniner.runs.folder import ALWAYS_WRITTEN


def _greet(context: Context) -> None:
    (context.folder / "greeting.txt").write_text(f"hello {context.config.name}")


@pytest.fixture
def greet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Task]:
    """A task of somebody else, with its choice in a folder of configurations."""
    monkeypatch.chdir(tmp_path)
    choice = tmp_path / "mine" / "task" / "greet.yaml"
    choice.parent.mkdir(parents=True)
    choice.write_text("name: greet\n")
    yield TASKS.add(
        Task(
            name="greet",
            description="Say hello.\n\nNothing else.",
            run=_greet,
            label=lambda config: ["greet", Path(config.input or "").stem],
            inputs=[Input("input", required=True, folder_allowed=False)],
            outputs=["greeting.txt"],
            resume_files=["greeting.txt"],
        )
    )
    TASKS.remove("greet")


def _command(monkeypatch: pytest.MonkeyPatch, *overrides: str) -> int:
    monkeypatch.setattr(sys, "argv", ["omniner.run", "--config-dir", "mine", "tracking=off", *overrides])
    with pytest.raises(SystemExit) as ended:
        run.main()
    return int(ended.value.code or 0)


def test_an_added_task_is_validated_named_run_and_cleared(
    greet: Task, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (TASKS.meaning("greet"), greet.meaning) == ("Say hello.", "Say hello.")
    assert _command(monkeypatch, "task=greet") == 2
    assert "error: input: task=greet needs it. Set input=<path>." in capsys.readouterr().err
    assert _command(monkeypatch, "task=greet", "input=mine") == 2
    assert "error: input: mine is not a file" in capsys.readouterr().err

    Path("world.txt").touch()
    assert _command(monkeypatch, "task=greet", "input=world.txt", "output_dir=here") == 0
    assert Path("here/greeting.txt").read_text() == "hello greet-world"
    Path("here/notes.txt").touch()
    command = ["task=score", "predictions=world.txt", "output_dir=here"]
    with pytest.raises(UserError, match=r"here holds the run of another command \(task=greet\)"):
        folder.claim_folder(compose.load(command))
    other = folder.claim_folder(compose.load([*command, "overwrite=true"]))
    other.drop_backup()
    other.close()
    assert {path.name for path in Path("here").iterdir()} == {"notes.txt", *folder.BOOKKEEPING}


def test_a_task_composes_with_the_search_path_of_its_command(greet: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("mine/data").mkdir()
    choice = "defaults: [sample]\nname: my_sample\nsize: {train: 20, dev: 4, test: 4}\n"
    Path("mine/data/my_sample.yaml").write_text(choice)
    assert _command(monkeypatch, "task=stats", "corpora=[my_sample]", "output_dir=here") == 0
    assert "my_sample" in Path("here/stats.json").read_text(encoding="utf-8")


def test_a_choice_of_ones_own_with_the_name_of_one_of_ours_is_no_choice(
    greet: Task,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Hydra looks into the package first, and would pass over it without a word."""
    Path("mine/trainer").mkdir()
    file = Path("mine/trainer/cpu.yaml")
    file.write_text("max_epochs: 3\n")
    assert _command(monkeypatch, "task=greet", "input=mine/task/greet.yaml", "output_dir=here", "trainer=cpu") == 2
    said = capsys.readouterr().err
    assert "error: mine/trainer/cpu.yaml: trainer=cpu is a choice of OmniNER, which would be taken in its" in said
    assert "`defaults: [cpu]`" in said
    monkeypatch.setattr(sys, "argv", ["omniner.run", "hydra.searchpath=[mine]", "trainer=cpu", "task=score"])
    with pytest.raises(SystemExit):
        run.main()
    assert "error: mine/trainer/cpu.yaml: trainer=cpu is a choice of OmniNER" in capsys.readouterr().err
    assert _command(monkeypatch, "task=greet", "input=mine/task/greet.yaml", "output_dir=other") == 0
    assert "never taken, because files of OmniNER have their names" in caplog.text
    assert "mine/trainer/cpu.yaml" in caplog.text
    caplog.clear()
    file.write_bytes((compose.conf_folder() / "trainer/cpu.yaml").read_bytes())  # whoever copied all of conf/
    assert _command(monkeypatch, "task=greet", "input=mine/task/greet.yaml", "output_dir=here", "trainer=cpu") == 0
    assert "never taken" not in caplog.text
    file.rename("mine/trainer/mine.yaml").write_text("defaults: [cpu]\nmax_epochs: 3\n")
    assert _command(monkeypatch, "task=greet", "input=mine/task/greet.yaml", "output_dir=there", "trainer=mine") == 0
    assert "max_epochs: 3\n" in Path("there/config.yaml").read_text()


def test_an_added_task_stands_in_help_and_in_what_can_be_chosen(
    greet: Task, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["omniner.run", "--config-dir", "mine", "--help"])
    run.main()
    [choices] = [line for line in capsys.readouterr().out.splitlines() if line.startswith("task: ")]
    assert "greet" in choices
    with pytest.raises(UserError, match="Did you mean greet"):
        compose.load(["task.name=gret"])


@pytest.mark.parametrize("name", TASKS)
def test_an_entry_is_called_after_its_module_and_has_a_choice(name: str) -> None:
    task = TASKS[name]
    assert task.name == name
    assert TASKS.meaning(name) == task.meaning
    assert task.meaning.startswith(f"`task={name}`: ")
    assert task.meaning.endswith(".")
    choice = Path(__file__).parents[3] / "conf" / "task" / f"{name}.yaml"
    assert f"name: {name}" in choice.read_text(encoding="utf-8").splitlines()
    assert not set(task.outputs) & {*ALWAYS_WRITTEN, *folder.BOOKKEEPING}
    assert {path.partition("/")[0] for path in task.resume_files} <= set(task.outputs)


def test_tasks_are_known_without_loading_torch() -> None:
    code = "from omniner.registry import TASKS; list(TASKS.values()); import sys; print('torch' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"


@pytest.mark.parametrize(
    ("entry", "parts", "label"),
    [
        ("a.jsonl", ("", "a.jsonl"), "a"),
        ("mine=a.jsonl", ("mine", "a.jsonl"), "mine"),
        ("lr=0.1.jsonl", ("", "lr=0.1.jsonl"), "lr=0.1"),  # a file that is there
        ("mine=lr=0.1.jsonl", ("mine", "lr=0.1.jsonl"), "mine"),
    ],
)
def test_an_entry_is_a_path_or_a_name_and_a_path(
    entry: str, parts: tuple[str, str], label: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("lr=0.1.jsonl").touch()
    assert split_entry(entry) == parts
    assert entry_label(entry) == label


@pytest.mark.parametrize(
    ("overrides", "name"),
    [
        (["decoding=openai", "decoding.url=http://h/v1", "decoding.model=Qwen/Qwen2.5-7B"], "predict-Qwen-Qwen2.5-7B-"),
        (["model=qwen2_tiny", "model.name=my/model"], "predict-my-model-"),
        (["checkpoint=outputs/lr0.01"], "predict-lr0.01-"),
        (["checkpoint=outputs/a/checkpoints/best.ckpt"], "predict-best-"),
    ],
)
def test_an_automatic_name_is_that_of_one_folder_and_tells_runs_apart(
    overrides: list[str], name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = compose.load(["task=predict", "text=[a]", *overrides])
    assert config.name.startswith(name)
    claimed = folder.claim_folder(config)
    claimed.close()
    assert claimed.path.parent == folder.ROOT
