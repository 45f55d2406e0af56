from __future__ import annotations

import logging
import os
from pathlib import Path
from unittest.mock import Mock

import pytest
import small_corpus
import torch

from omniner.compute import devices
from omniner.compute.precision import _measure_gain, bf16_gain
from omniner.compute.torch_settings import exact_products, preserved_settings, settings_for
from omniner.errors import UserError
from omniner.models import devices_for_prediction, prepare_devices


@pytest.mark.parametrize(
    ("processes", "said", "threads"),
    [
        (1, None, 8),
        (2, None, 4),
        (16, None, 1),
        (1, "", 8),
        (1, "3", 3),
        (2, "3", 3),
        (4, "3", 2),
        (1, "64", 8),
        (1, "2,1", 2),
        (1, "0", 8),
        (1, "many", 8),
    ],
)
def test_threads_are_a_share_of_the_cores_or_fewer(
    monkeypatch: pytest.MonkeyPatch, processes: int, said: str | None, threads: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if said is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", said)
    assert devices.share_of_threads(processes) == threads


def test_without_the_linux_call_every_core_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert [devices.share_of_threads(processes) for processes in (1, 2, 8)] == [6, 3, 1]


def test_mps_is_not_in_the_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    trainer = small_corpus.configuration("char_bilstm", "trainer.accelerator=auto").trainer
    chosen = devices.choose_devices(trainer, large=True, trains=True)
    assert (chosen.accelerator, chosen.precision, chosen.device) == ("cpu", "32-true", torch.device("cpu"))
    trainer.accelerator = "gpu"
    with pytest.raises(UserError, match=r"no GPU that torch [^ ]+, which is built without CUDA, can use"):
        devices.choose_devices(trainer, large=True, trains=True)


def test_a_gpu_that_does_not_start_is_an_error_and_not_a_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch counts GPUs by asking the driver, which knows them also where CUDA cannot use them."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    too_old = RuntimeError("The NVIDIA driver on your system is too old")
    monkeypatch.setattr(torch, "ones", Mock(side_effect=too_old))
    trainer = small_corpus.configuration("char_bilstm", "trainer.accelerator=auto").trainer
    with pytest.raises(UserError, match=r"trainer\.accelerator: there is a GPU, but CUDA does not start \(The NVIDIA"):
        devices.choose_devices(trainer, large=False, trains=True)
    trainer.accelerator = "cpu"
    assert devices.choose_devices(trainer, large=False, trains=True).accelerator == "cpu"


@pytest.mark.parametrize(("variables", "own"), [({}, 0), ({"LOCAL_RANK": "3"}, 1), ({"SLURM_LOCALID": "1"}, 1)])
def test_each_process_tries_its_own_gpu(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], own: int) -> None:
    """On a GPU of its siblings it would take memory from them."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch, "ones", ones := Mock())
    trainer = small_corpus.configuration("char_bilstm", "trainer.accelerator=gpu").trainer
    assert devices.count_devices(trainer)[0] == "gpu"
    ones.assert_called_once_with(1, device=f"cuda:{own}")


def test_a_gpu_without_kernels_is_left_aside_unless_it_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    error = RuntimeError("CUDA error: no kernel image is available for execution on the device\nCUDA kernel errors ...")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch, "ones", Mock(side_effect=error))
    monkeypatch.setattr(devices, "GPU_FILES", (str(tmp_path),))
    trainer = small_corpus.configuration("char_bilstm", "trainer.accelerator=auto", "trainer.devices=0").trainer
    chosen = devices.choose_devices(trainer, large=False, trains=True)
    assert (chosen.accelerator, chosen.world) == ("cpu", 1)
    assert "no GPU that torch" in caplog.text
    assert "has kernels for: the CPU does the work" in caplog.text
    for rank in {"LOCAL_RANK": "1"}, {"SLURM_LOCALID": "1", "SLURM_STEP_NUM_TASKS": "2"}:  # siblings may use theirs
        with monkeypatch.context() as context:
            for name, value in rank.items():
                context.setenv(name, value)
            with pytest.raises(UserError, match=r"has no kernels .* CUDA 12\.6 .* number in CUDA_VISIBLE_DEVICES"):
                devices.count_devices(trainer)
    trainer.accelerator = "gpu"
    with pytest.raises(UserError, match=r"has no kernels for this GPU"):
        devices.count_devices(trainer)


def test_a_torch_without_cuda_beside_a_driver_is_a_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    trainer = small_corpus.configuration("char_bilstm", "trainer.accelerator=auto").trainer
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    for files, told in ((), False), ((str(tmp_path),), True):
        monkeypatch.setattr(devices, "GPU_FILES", files)
        caplog.clear()
        assert devices.choose_devices(trainer, large=False, trains=True).accelerator == "cpu"
        assert ("a GPU driver is there" in caplog.text) is told


@pytest.mark.parametrize(("has_bf16", "precision"), [(True, "bf16-mixed"), (False, "32-true")])
def test_bf16_only_on_a_gpu_that_has_it(monkeypatch: pytest.MonkeyPatch, has_bf16: bool, precision: str) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(devices, "_start_gpu", lambda number: None)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: has_bf16 or including_emulation)
    trainer = small_corpus.configuration("char_bilstm", "trainer.accelerator=gpu").trainer
    assert devices.choose_devices(trainer, large=True, trains=True).precision == precision
    assert devices.choose_devices(trainer, large=False, trains=True).precision == "32-true", (
        "a small model gains nothing"
    )


def test_lstms_round_no_factors_in_full_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    config = small_corpus.configuration("char_bilstm", "trainer.accelerator=cpu")
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    for precision, rounds in (("32-true", False), ("bf16-mixed", True)):
        config.trainer.precision = precision
        prepare_devices(config)
        assert torch.backends.cudnn.allow_tf32 is rounds


@pytest.mark.parametrize(
    ("load", "override", "trains", "told"),
    [
        (3.2, "trainer.threads=0", True, True),
        (3.2, "trainer.threads=2", True, False),  # somebody chose that
        (3.2, "trainer.threads=0", False, False),
        (1.1, "trainer.threads=0", True, False),  # that is this process
    ],
)
def test_threads_beside_other_work_are_a_hint(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    load: float,
    override: str,
    trains: bool,
    told: bool,
) -> None:
    monkeypatch.setattr(os, "getloadavg", lambda: (load, load, load), raising=False)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    trainer = small_corpus.configuration("char_bilstm", override).trainer
    with caplog.at_level(logging.INFO, "omniner"):
        devices.choose_devices(trainer, large=False, trains=trains)
    assert ("trainer.threads=1 may train" in caplog.text) is told


def test_only_training_divides_its_steps_between_devices(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setattr(devices, "_start_gpu", lambda number: None)
    more = ["trainer.accelerator=gpu", "trainer.batch_size=8", "trainer.precision=32-true", "trainer.strategy=fsdp"]
    trainer = small_corpus.configuration("qwen2_tiny", *more, "trainer.devices=0").trainer
    with pytest.raises(UserError, match=r"trainer\.batch_size: 8 sentences do not divide over 3 devices"):
        devices.choose_devices(trainer, large=True, trains=True)
    with caplog.at_level(logging.INFO, "omniner"):
        chosen = devices.choose_devices(trainer, large=True, trains=False)
    assert (chosen.per_node, chosen.world, chosen.strategy) == (1, 1, "auto")
    assert "1 GPU, 32-true" in caplog.text


def test_nodes_multiply_the_processes_of_training() -> None:
    trainer = small_corpus.configuration("char_bilstm", "trainer.accelerator=cpu", "trainer.nodes=2").trainer
    chosen = devices.choose_devices(trainer, large=False, trains=True)
    assert (chosen.per_node, chosen.world, chosen.strategy) == (1, 2, "ddp")


def test_no_gpu_is_an_error_even_if_no_number_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    trainer = small_corpus.configuration("char_bilstm", "trainer.accelerator=gpu", "trainer.devices=0").trainer
    with pytest.raises(UserError, match=r"trainer\.accelerator: no GPU"):
        devices.count_devices(trainer)


@pytest.mark.parametrize(
    ("accelerator", "threads", "trains", "given"),
    [
        ("cpu", 0, True, [4]),
        ("cpu", 3, True, [3]),
        ("gpu", 0, True, [8]),  # the processes of GPUs hardly compute on the CPU
        ("cpu", 3, False, [3]),
        ("cpu", 0, False, []),  # another program may have set them
    ],
)
def test_threads_of_two_processes_on_eight_cores(
    monkeypatch: pytest.MonkeyPatch, accelerator: str, threads: int, trains: bool, given: list[int]
) -> None:
    seen: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", seen.append)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(devices, "_start_gpu", lambda number: None)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    more = [f"trainer.accelerator={accelerator}", "trainer.devices=2", f"trainer.threads={threads}"]
    config = small_corpus.configuration("char_bilstm", *more, "trainer.precision=32-true")
    if trains:
        prepare_devices(config)
    else:
        devices_for_prediction(config, None)
    assert seen == given


@pytest.mark.parametrize("trains", [True, False])
def test_who_chooses_devices_leaves_threads_and_torch_alone(monkeypatch: pytest.MonkeyPatch, trains: bool) -> None:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    monkeypatch.setattr(torch, "set_num_threads", change := Mock())
    try:
        devices.choose_devices(small_corpus.configuration("bert_tiny").trainer, True, trains=trains)
        change.assert_not_called()
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)


def test_bf16_gain_is_measured_for_each_number_of_threads(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    gains = iter([1.0, 2.0])
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("omniner.compute.precision._measure_gain", lambda *_: next(gains))
    found = []
    for threads in (1, 2, 1, 2):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        found.append(bf16_gain(896, 4864))
    assert found == [1.0, 2.0, 1.0, 2.0]


@pytest.mark.parametrize(
    ("flags", "layer", "gain", "precision"),
    [
        ("fpu amx_bf16", (896, 4864), 5.0, "bf16-mixed"),
        ("fpu amx_bf16", (896, 4864), 1.2, "32-true"),  # it can, but is not faster
        ("fpu amx_bf16", (896, 4864), 1.5, "bf16-mixed"),  # just enough
        ("fpu amx_bf16", (128, 4864), None, "32-true"),
        ("fpu avx2", (896, 4864), None, "32-true"),
        ("fpu amx_bf16", (128, 256), None, "32-true"),  # too narrow to gain
        ("fpu amx_bf16", None, None, "32-true"),  # random weights: as exact as tests need them
    ],
)
def test_a_pretrained_model_takes_bf16_on_a_cpu_that_is_fast_at_it(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    flags: str,
    layer: tuple[int, int] | None,
    gain: float | None,
    precision: str,
) -> None:
    measured: list[tuple[int, int]] = []

    def measure(*sizes: int) -> float:
        assert gain is not None
        measured.append(sizes)
        return gain

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("omniner.compute.precision.processor", lambda: ("made up", set(flags.split())))
    monkeypatch.setattr("omniner.compute.precision._measure_gain", measure)
    trainer = small_corpus.configuration("bert_tiny").trainer
    with caplog.at_level(logging.INFO, "omniner"):
        for _ in range(2):  # the second time from what is kept
            chosen = devices.choose_devices(trainer, True, layer, trains=True)
            assert chosen.precision == precision
    assert measured == ([] if gain is None else [layer])
    assert ("times as fast as fp32 here" in caplog.text) is (gain is not None)
    assert chosen.dtype(learns=True) == torch.float32  # what learns is held exactly
    assert chosen.dtype(learns=False) == (torch.bfloat16 if precision == "bf16-mixed" else torch.float32)


def test_the_two_precisions_are_measured() -> None:
    assert 0.05 < _measure_gain(64, 128) < 100


@pytest.mark.parametrize(("precision", "products"), [("32-true", "highest"), ("bf16-mixed", "high")])
def test_exact_products_are_rounded_nowhere_and_the_order_of_sums_is_a_choice(precision: str, products: str) -> None:
    before = torch.get_float32_matmul_precision(), torch.are_deterministic_algorithms_enabled()
    try:
        for deterministic in (True, False):
            more = f"trainer.precision={precision}", f"trainer.deterministic={str(deterministic).lower()}"
            prepare_devices(small_corpus.configuration("bert_tiny", *more))
            assert torch.get_float32_matmul_precision() == products
            assert torch.are_deterministic_algorithms_enabled() is deterministic
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.use_deterministic_algorithms(before[1])


@pytest.mark.parametrize(
    ("model", "more", "warns"),
    [
        ("qwen2_tiny", ["trainer.precision=bf16-true"], True),  # random weights all learn
        ("bert_tiny", ["trainer.precision=bf16-true"], True),
        ("qwen2_tiny", ["trainer.precision=bf16-true", "tuning=lora"], False),
        ("qwen2_tiny", ["trainer.precision=bf16-mixed"], False),
    ],
)
def test_weights_that_would_round_their_own_steps_away_are_warned_of(
    model: str, more: list[str], warns: bool, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "omniner"):
        prepare_devices(small_corpus.configuration(model, *more))
    assert ("bf16-true rounds the weights" in caplog.text) is warns


def test_of_blocks_in_several_threads_the_last_one_gives_back_what_the_program_had() -> None:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        blocks = [settings_for(devices.Devices("cpu", 1, 1, "auto", name)) for name in ("32-true", "bf16-mixed")]
        for block in blocks:
            block.__enter__()
        for block in blocks:  # the first to begin ends first, as threads do
            assert torch.get_float32_matmul_precision() == "highest", "the strictest counts for all"
            block.__exit__(None, None, None)
        assert torch.get_float32_matmul_precision() == "medium"
        answers = settings_for(devices.Devices("cpu", 1, 1, "auto", "bf16-mixed"))
        answers.__enter__()
        with preserved_settings():
            torch.set_float32_matmul_precision("highest")  # as a training does
            answers.__exit__(None, None, None)
            assert torch.get_float32_matmul_precision() == "highest"
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)


def test_a_program_that_sets_single_backends_is_left_alone() -> None:
    before, backend = torch.get_float32_matmul_precision(), torch.backends.cuda.matmul
    torch.set_float32_matmul_precision("highest")
    backend.fp32_precision = "tf32"
    try:
        with pytest.raises(RuntimeError):
            torch.get_float32_matmul_precision()
        with settings_for(devices.Devices("cpu", 1, 1, "auto", "32-true")), exact_products():
            assert backend.fp32_precision == "tf32"
        with preserved_settings():
            pass
        assert backend.fp32_precision == "tf32"
    finally:
        torch.set_float32_matmul_precision(before)
