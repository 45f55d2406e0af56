"""What a machine with a GPU can settle in ten minutes, in one process: `python tests/gpu/device_check.py`.

Each stage has seconds of its own and writes a JSON line for whatever it has found, at once, so that a machine that is
taken away has said what it knew by then. A stage that fails is a line with its error, and the next one goes on. So is
one that takes too long: it is interrupted, and where it hangs in a kernel, the process starts itself again behind it.

No network is needed: models have the shapes of Qwen2 0.5B and 7B and random weights, which are made on the device. The
stages, in the order of what they settle: versions, ceilings (products, memory, launches), attention (each back-end
against fp64), train (milliseconds, share of the ceiling, peak memory beside what `memory` foretells, idle share),
decode (slots, merged or not, guided or not, against padded `generate`), repeat (the same bytes twice), run (a real
`omniner.run`, stopped and resumed), tests (`pytest -m gpu`).

    python tests/gpu/device_check.py --out device_check.jsonl
    python tests/gpu/device_check.py --tiny          # the same stages with tiny shapes; on a CPU as well
    python tests/gpu/device_check.py --stages train,decode --seconds 300
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "tests" / "helpers")]

import torch  # noqa: E402  # after the paths

LIBRARIES = ("torch", "transformers", "pytorch-lightning", "peft", "bitsandbytes", "triton", "hydra-core", "mlflow")
GRACE = 10.0  # seconds for an interruption to get through before the process starts anew
PREFIX, REST, ANSWER = (
    674,
    28,
    46,
)  # tokens of OmniNER2025 with the official prompt: shared, of a sentence, of its answer


class Shape(NamedTuple):
    """A model by its sizes, and how many sentences a pack holds behind the prefix."""

    hidden: int
    inner: int
    layers: int
    heads: int
    groups: int
    vocabulary: int
    sentences: int


SHAPES = {"0.5b": Shape(896, 4864, 24, 14, 2, 151936, 45), "7b": Shape(3584, 18944, 28, 28, 4, 152064, 45)}
TINY = {"0.5b": Shape(64, 96, 2, 2, 1, 700, 4), "7b": Shape(64, 96, 2, 4, 2, 700, 4)}


class Check:
    """What the stages share.

    Args:
        tiny: small shapes and few rounds.
        out: where lines go beside the standard output; None = nowhere.
    """

    def __init__(self, tiny: bool, out: Path | None) -> None:
        self.tiny, self.out = tiny, out
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.shapes = TINY if tiny else SHAPES
        self.prefix = 24 if tiny else PREFIX
        self.ceiling = 0.0  # TFLOP/s of bf16 products, once measured
        self.stage = ""

    def say(self, **values: Any) -> None:
        """Write a line of JSON."""
        rounded = {name: round(value, 4) if isinstance(value, float) else value for name, value in values.items()}
        line = json.dumps({"stage": self.stage, **rounded}, ensure_ascii=False)
        print(line, flush=True)
        if self.out is not None:
            with self.out.open("a", encoding="utf-8") as file:
                file.write(line + "\n")

    def seconds_of(self, work: Callable[[], object], rounds: int) -> float:
        """The median time of some rounds, after one that does not count."""
        times = []
        for _ in range((1 if self.tiny else rounds) + 1):
            self.wait()
            start = time.perf_counter()
            work()
            self.wait()
            times.append(time.perf_counter() - start)
        return sorted(times[1:])[len(times[1:]) // 2]

    def wait(self) -> None:
        """Wait for the device."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def peak(self) -> float:
        """GiB that were in use at most since `fresh`."""
        return torch.cuda.max_memory_allocated() / 2**30 if self.device.type == "cuda" else 0.0

    def fresh(self) -> None:
        """Forget what was measured of memory, and give back what is free."""
        import gc

        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

    @contextlib.contextmanager
    def part(self, **names: Any) -> Iterator[dict[str, Any]]:
        """Say what was found in a part of a stage, or how it failed: the others go on.

        A model belongs to a function that the block calls: a name of the block keeps it, also after a failure, beside
        the model of the next part.
        """
        found: dict[str, Any] = {}
        self.fresh()  # the last part's error, which kept its names, is gone by now
        try:
            yield found
            self.say(**names, **found)
        except Exception as error:
            self.say(**names, **found, error=f"{type(error).__name__}: {str(error).strip()[:400]}")
        self.fresh()


def versions(check: Check) -> None:
    """Say what is installed, and on what it runs."""
    found: dict[str, Any] = {}
    for name in LIBRARIES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    check.say(python=sys.version.split()[0], device=str(check.device), tiny=check.tiny, **found)
    if check.device.type == "cuda":
        card = torch.cuda.get_device_properties(0)
        check.say(
            gpu=card.name,
            capability=f"{card.major}.{card.minor}",
            gib=card.total_memory / 2**30,
            gpus=torch.cuda.device_count(),
            cuda=torch.version.cuda,
            bf16=torch.cuda.is_bf16_supported(),
        )


def ceilings(check: Check) -> None:
    """Measure what the device can do: products at the models' shapes, copies, launches."""
    rows = 64 if check.tiny else 4096
    for name, shape in check.shapes.items():
        for dtype in (torch.bfloat16, torch.float32):
            with check.part(what="product", shape=name, dtype=str(dtype)) as found:
                left = torch.randn(rows, shape.hidden, device=check.device, dtype=dtype)
                right = torch.randn(shape.hidden, shape.inner, device=check.device, dtype=dtype)
                seconds = check.seconds_of(lambda left=left, right=right: left @ right, 20)
                found["tflops"] = 2 * rows * shape.hidden * shape.inner / seconds / 1e12
                if dtype == torch.bfloat16:
                    check.ceiling = max(check.ceiling, found["tflops"])
    with check.part(what="copy") as found:
        size = 2**20 if check.tiny else 2**30
        source = torch.zeros(size, dtype=torch.uint8, device=check.device)
        found["gb_per_s"] = 2 * size / check.seconds_of(source.clone, 10) / 1e9
    with check.part(what="launch") as found:
        small = torch.zeros(8, device=check.device)
        found["us"] = check.seconds_of(lambda: [small.add_(1) for _ in range(1000)], 5) * 1e3


def items(check: Check, count: int, vocabulary: int) -> list[Any]:
    """Samples as `make_pack` takes them, of the corpus' mean lengths."""
    chance = random.Random(0)
    common = [chance.randrange(vocabulary) for _ in range(check.prefix)]

    def tokens(mean: int) -> list[int]:
        return [chance.randrange(vocabulary) for _ in range(chance.randint(mean // 2, mean * 3 // 2))]

    return [SimpleNamespace(id=str(n), prompt=common + tokens(REST), answer=tokens(ANSWER)) for n in range(count)]


def attention(check: Check) -> None:
    """Compare each back-end with the mask in fp64, forward and backward, and time it."""
    from omniner.llm.training.attention import ATTENTION_BACKENDS, attend_masked
    from omniner.llm.training.packs import make_pack

    for name, shape in check.shapes.items():
        size = shape.hidden // shape.heads
        pack = make_pack(items(check, shape.sentences, 100), check.prefix).to(check.device)
        torch.manual_seed(0)
        heads = (shape.heads, shape.groups, shape.groups)
        exact = [torch.randn(1, number, len(pack.ids), size, device=check.device) for number in heads]
        exact = [each.bfloat16().double().requires_grad_() for each in exact]
        weight = torch.randn(1, len(pack.ids), shape.heads, size, device=check.device).bfloat16()
        out = attend_masked(*exact, size**-0.5, pack, False)  # type: ignore[arg-type]
        want = [out.detach(), *torch.autograd.grad((out * weight.double()).sum(), exact)]
        for backend in ATTENTION_BACKENDS.values():
            if backend.device not in (None, check.device.type):
                continue
            with check.part(backend=backend.name, shape=name, tokens=len(pack.ids)) as found:
                given = [each.detach().bfloat16().requires_grad_() for each in exact]

                both = partial(attend_both_ways, backend.attend, given, weight, size**-0.5, pack)
                pairs = zip(both(), want, strict=True)
                found["errors"] = [round(((got - one).norm() / one.norm()).item(), 5) for got, one in pairs]
                found["ms"] = check.seconds_of(both, 10) * 1e3


def attend_both_ways(attend: Any, given: list[Any], weight: Any, scale: float, pack: Any) -> list[Any]:
    """The result, and the gradients by query, key and value of its product with a weight."""
    made = attend(*given, scale, pack, False)
    return [made.detach(), *torch.autograd.grad((made * weight).sum(), given)]


def random_model(check: Check, shape: Shape, dtype: torch.dtype) -> Any:
    """A Qwen2 of this shape with random weights, made on the device."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(
        "qwen2",
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        intermediate_size=shape.inner,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.groups,
        tie_word_embeddings=shape.hidden < 1024,
        max_position_embeddings=32768,
        eos_token_id=None,
        bos_token_id=None,
        pad_token_id=0,
    )
    torch.manual_seed(0)
    with check.device:
        return AutoModelForCausalLM.from_config(config, dtype=dtype)


def learner(check: Check, shape: Shape, method: str, checkpointing: bool) -> tuple[Any, torch.optim.Optimizer]:
    """A model of this shape that learns by a method, and its optimizer."""
    from small_causal import tuning_config

    from omniner.llm.quantization import quantize
    from omniner.llm.training.optimizers import build_optimizer, choose_optimizer
    from omniner.llm.training.shared_prefix import attach_attention
    from omniner.llm.tuning import prepare_for_training

    tuning = tuning_config(method, rank=16, alpha=32, gradient_checkpointing=checkpointing)
    model = random_model(check, shape, torch.float32 if method == "full" else torch.bfloat16)
    if method == "qlora":
        quantize(model, True, torch.bfloat16, check.device)
    model = prepare_for_training(model, tuning, method, 0).to(check.device)
    attach_attention(model, "flash" if check.device.type == "cuda" else "cascade", torch.bfloat16)
    accelerator = "gpu" if check.device.type == "cuda" else "cpu"
    name = choose_optimizer(model, tuning.optimizer, accelerator, "auto")
    return model, build_optimizer(model, name, 1e-4, 0.0)


def train(check: Check) -> None:
    """Time steps of one pack: shapes and methods, with activations kept or computed again."""
    for name, method, checkpointing in (
        ("0.5b", "lora", False), ("7b", "lora", False), ("7b", "qlora", True), ("7b", "lora", True),
        ("0.5b", "full", False), ("0.5b", "qlora", False), ("7b", "full", True),
    ):  # fmt: skip
        with check.part(shape=name, method=method, checkpointing=checkpointing) as found:
            time_steps(check, check.shapes[name], method, checkpointing, found)


def time_steps(check: Check, shape: Shape, method: str, checkpointing: bool, found: dict[str, Any]) -> None:
    """Time the steps of one shape and method."""
    from omniner.llm.training.packs import make_pack

    model, optimizer = learner(check, shape, method, checkpointing)
    pack = make_pack(items(check, shape.sentences, shape.vocabulary), check.prefix).to(check.device)
    step = step_of(check, model, optimizer, pack)
    check.fresh()
    seconds = check.seconds_of(step, 5)
    products = shape.layers * shape.hidden * (3 * shape.inner + 2 * shape.hidden * (1 + shape.groups / shape.heads))
    passes = 6 if method == "full" else 4  # frozen weights have no gradient of their own
    work = passes * (products * len(pack.ids) + shape.vocabulary * shape.hidden * len(pack.targets))
    found |= {"tokens": len(pack.ids), "ms": seconds * 1e3, "tflops": work / seconds / 1e12}
    found["of_ceiling"] = found["tflops"] / check.ceiling if check.ceiling else None
    found["peak_gib"], found["counted_gib"] = check.peak(), counted(check, model, method, checkpointing, pack)
    found["idle"] = idle_share(check, step)


def counted(check: Check, model: Any, method: str, checkpointing: bool, pack: Any) -> float:
    """GiB that `omniner.llm.training.memory` counts for these steps, without an evaluation."""
    from small_causal import tuning_config

    from omniner.compute.devices import Devices
    from omniner.config import compose
    from omniner.llm.training.memory import GIB, MemoryCount, PackSize
    from omniner.pretrained import base_model

    size = PackSize(pack.prefix_length, len(pack.ids), len(pack.targets))
    on = Devices("gpu" if check.device.type == "cuda" else "cpu", 1, 1, "auto", "bf16-mixed")
    decoding = compose.load(["model=qwen2_tiny", "trainer=cpu"]).decoding
    tuning = tuning_config(method, rank=16, alpha=32, gradient_checkpointing=checkpointing)
    needs = MemoryCount(base_model(model).config, method, on, size, decoding).needs(tuning, "auto")
    return needs._replace(evaluation=0.0).total / GIB


def step_of(check: Check, model: Any, optimizer: torch.optim.Optimizer, pack: Any) -> Callable[[], float]:
    """One optimizer step on a pack."""
    from omniner.llm.training.shared_prefix import pack_loss

    def step() -> float:
        with torch.autocast(check.device.type, torch.bfloat16):
            loss = pack_loss(model, pack) / len(pack.targets)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return float(loss.detach())

    return step


def idle_share(check: Check, step: Callable[[], object]) -> float | None:
    """The share of a step in which the GPU has nothing to do."""
    if check.device.type != "cuda":
        return None
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as seen:
        start = time.perf_counter()
        step()
        check.wait()
        wall = time.perf_counter() - start
    busy = sum(event.self_device_time_total for event in seen.key_averages()) / 1e6
    return max(0.0, 1 - busy / wall)


def decode(check: Check) -> None:
    """Time greedy decoding: slots, adapters merged or beside, and padded `generate` on the same prompts."""
    length = 8 if check.tiny else 48
    for name, slots in (("0.5b", 64), ("0.5b", 256), ("7b", 64), ("7b", 256), ("7b", 512)):
        with check.part(shape=name, slots=slots, new_tokens=length) as found:
            time_answers(check, check.shapes[name], slots, length, found)
    guided(check)


def time_answers(check: Check, shape: Shape, slots: int, length: int, found: dict[str, Any]) -> None:
    """Time the answers of a model of one shape."""
    from small_causal import tuning_config

    from omniner.llm.tuning import add_adapters

    model = random_model(check, shape, torch.bfloat16).eval()
    asked = items(check, 8 if check.tiny else 2 * slots, shape.vocabulary)
    found["plain_per_s"], plain = answers_per_second(check, model, asked, slots, length)
    model = add_adapters(model, tuning_config("lora", rank=16, alpha=32), 0).to(check.device)
    found["lora_per_s"], beside = answers_per_second(check, model, asked, slots, length)
    found["lora_same"] = share_equal(plain, beside)  # untrained adapters change nothing
    if slots == 64:
        found["generate_per_s"], padded = generated_per_second(check, model.unload(), asked, length)
        found["generate_same"] = share_equal(plain, padded)
    found["peak_gib"] = check.peak()


def answers_per_second(check: Check, model: Any, asked: list[Any], slots: int, length: int) -> tuple[float, Any]:
    """How many answers the decoder gives in a second, and these."""
    from omniner.config import compose
    from omniner.llm.decoding.decoder import Decoder, DecodingRequest

    chat: Any = SimpleNamespace(stops=frozenset(), decode=lambda tokens: "")
    more = [f"decoding.slots={slots}", f"decoding.max_new_tokens={length}", "trainer=cpu"]
    config = compose.load(["model=qwen2_tiny", *more]).decoding
    decoder = Decoder(model, chat, asked[0].prompt[: check.prefix], config, None, 0)
    requests = [DecodingRequest(one.id, one.prompt, "x" * 1000) for one in asked]
    check.wait()
    start = time.perf_counter()
    found = {one.id: one.tokens for batch in decoder.run(requests) for one in batch}
    check.wait()
    return len(asked) / (time.perf_counter() - start), found


def generated_per_second(check: Check, model: Any, asked: list[Any], length: int) -> tuple[float, Any]:
    """The same by padded `generate`, twenty at a time."""
    found = {}
    start = time.perf_counter()
    ordered = sorted(asked, key=lambda one: -len(one.prompt))
    for at in range(0, len(ordered), 20):
        part = ordered[at : at + 20]
        longest = max(len(one.prompt) for one in part)
        ids = torch.tensor([[0] * (longest - len(one.prompt)) + one.prompt for one in part], device=check.device)
        mask = torch.tensor([[0] * (longest - len(one.prompt)) + [1] * len(one.prompt) for one in part])
        made = model.generate(
            input_ids=ids, attention_mask=mask.to(check.device), max_new_tokens=length, do_sample=False
        )
        found |= {one.id: row[longest:].tolist() for one, row in zip(part, made, strict=True)}
    return len(asked) / (time.perf_counter() - start), found


def share_equal(left: dict[str, Any], right: dict[str, Any]) -> float:
    """The share of answers that are the same tokens."""
    return sum(left[name] == right[name] for name in left) / len(left)


def guided(check: Check) -> None:
    """Time free and guided answers of one model with a tokenizer of its own."""
    import small_causal

    from omniner.config import compose
    from omniner.llm.decoding.decoder import Decoder
    from omniner.llm.decoding.hf_engine import build_constraint, predict_answers
    from omniner.llm.language_model import build_causal_model
    from omniner.llm.samples import PromptEncoder
    from omniner.records import Sentence

    shape = check.shapes["0.5b"]
    sizes = {"hidden_size": shape.hidden, "intermediate_size": shape.inner, "num_hidden_layers": shape.layers,
             "num_attention_heads": shape.heads, "num_key_value_heads": shape.groups}  # fmt: skip
    settings = small_causal.model_config(architecture={"model_type": "qwen2", **sizes})
    tuning = small_causal.tuning_config("full")
    causal = build_causal_model(
        settings, tuning, small_causal.PROMPT, small_causal.TEXTS, torch.bfloat16, 0, trains=False
    )
    causal.model.to(check.device)
    for kind in ("free", "guided"):
        with check.part(decoding=kind) as found:
            config = compose.load(["model=qwen2_tiny", f"decoding={kind}", "decoding.max_new_tokens=32"])
            sentences = [Sentence(str(n), small_causal.TEXTS[n % 4]) for n in range(4 if check.tiny else 256)]
            samples, _ = PromptEncoder(causal.chat, causal.prompt, config.encoding).encode(sentences)
            prefix = samples[0].prompt[:16]
            constraint = build_constraint(causal, config.decoding)
            start = time.perf_counter()
            decoder = Decoder(causal.model, causal.chat, prefix, config.decoding, constraint, 0)
            made = [one for batch in predict_answers(causal, decoder, samples, frozenset()) for one in batch]
            found["per_s"] = len(made) / (time.perf_counter() - start)
            found["readable"] = sum(one.parse != "failed" for one in made) / len(made)


def repeat(check: Check) -> None:
    """Take three steps twice from the same seed, with `trainer.deterministic` on and off: are the bytes the same?"""
    from omniner.compute.torch_settings import apply_settings

    for deterministic in (True, False):
        with check.part(deterministic=deterministic) as found:
            apply_settings("bf16-mixed", deterministic)
            (first, left), (second, right) = (three_steps(check) for _ in range(2))
            found["same_losses"] = first == second
            found["same_bytes"] = all(torch.equal(*pair) for pair in zip(left, right, strict=True))
    apply_settings("bf16-mixed", False)


def three_steps(check: Check) -> tuple[list[float], list[torch.Tensor]]:
    """The losses of three steps, and the weights that learn after them."""
    from omniner.llm.training.packs import make_pack

    shape = check.shapes["0.5b"]
    pack = make_pack(items(check, shape.sentences, shape.vocabulary), check.prefix).to(check.device)
    model, optimizer = learner(check, shape, "lora", False)
    step = step_of(check, model, optimizer, pack)
    losses = [step() for _ in range(3)]
    return losses, [value.detach().cpu() for value in model.parameters() if value.requires_grad]


def run(check: Check) -> None:
    """A real run on the sample corpus: stopped by SIGTERM, resumed to its end."""
    words = ["model=qwen2_tiny", "tracking=off", "trainer.max_epochs=2", "trainer.checkpoint_minutes=0.02"]
    size = "data.size={train: 256, dev: 32, test: 64}"
    command = [sys.executable, "-m", "omniner.run", *words, size, "output_dir=run"]
    around = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    with tempfile.TemporaryDirectory() as folder, check.part(what="omniner.run") as found:
        first = subprocess.Popen(command, cwd=folder, env=around, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        try:
            while not Path(folder, "run", "checkpoints", "last.ckpt").exists() and first.poll() is None:
                time.sleep(0.2)
            first.send_signal(signal.SIGTERM)
            _, errors = first.communicate()
            found["status_after_sigterm"] = first.returncode
            if first.returncode != 128 + signal.SIGTERM:
                found["stopped_said"] = errors[-400:].decode()
        finally:
            first.kill()
        start = time.perf_counter()
        done = subprocess.run(command, cwd=folder, env=around, capture_output=True, text=True, check=False)
        found |= {"status": done.returncode, "seconds": time.perf_counter() - start}
        if done.returncode:
            found["said"] = done.stderr[-400:]
        else:
            scores = json.loads(Path(folder, "run", "scores.json").read_text(encoding="utf-8"))
            found["f1"] = scores["metrics"]["micro"]["f1"]


def tests(check: Check) -> None:
    """`pytest -m gpu`, whose summary is a line."""
    with check.part(what="pytest -m gpu") as found:
        command = [sys.executable, "-m", "pytest", "-m", "gpu", "-q", "--no-header", "tests/gpu", "tests/unit"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        lines = done.stdout.strip().splitlines()
        found |= {"status": done.returncode, "said": lines[-1] if lines else done.stderr[-300:]}
        found["failed"] = [line for line in lines if line.startswith(("FAILED", "ERROR"))][:20]


STAGES: dict[str, tuple[Callable[[Check], None], float]] = {
    "versions": (versions, 20),
    "ceilings": (ceilings, 40),
    "attention": (attention, 60),
    "train": (train, 200),
    "decode": (decode, 120),
    "repeat": (repeat, 40),
    "run": (run, 80),
    "tests": (tests, 120),
}
"""Name -> what it does, and its seconds."""


class TooLong(BaseException):  # no error of a part, which would go on
    """A stage has used up its seconds."""


@contextlib.contextmanager
def deadline(seconds: float, give_up: Callable[[], None]) -> Iterator[None]:
    """Interrupt the block after some seconds; where it hangs in a library, call `give_up`."""

    def interrupt(*_: object) -> None:
        raise TooLong(f"more than {seconds:.0f} s")

    over = threading.Event()

    def watch() -> None:
        if not over.wait(seconds + GRACE):
            give_up()

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    threading.Thread(target=watch, daemon=True).start()
    try:
        yield
    finally:
        over.set()
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def main(arguments: list[str]) -> int:
    """The command line; exit status 1 where a stage could not come to its end."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, help="a file for the lines, which is appended to")
    parser.add_argument("--seconds", type=float, default=580, help="of all stages together")
    parser.add_argument("--stages", default=",".join(STAGES), help="which, in this order")
    parser.add_argument("--tiny", action="store_true", help="tiny shapes")
    asked = parser.parse_args(arguments)
    check, end, failed = Check(asked.tiny, asked.out), time.monotonic() + asked.seconds, False
    left = asked.stages.split(",")
    while left:
        name = check.stage = left.pop(0)
        work, most = STAGES[name]
        seconds = min(most, end - time.monotonic())
        if seconds < 1:
            check.say(error="no time was left for it")
            failed = True
            continue

        def go_on(rest: tuple[str, ...] = tuple(left), most: float = seconds) -> None:
            check.say(error=f"hangs after {most:.0f} s; started again behind it")
            spare = max(0.0, end - time.monotonic())
            more = ["--seconds", str(spare), "--stages", ",".join(rest), *(["--tiny"] if check.tiny else [])]
            where = ["--out", str(check.out)] if check.out else []
            if rest:
                os.execv(sys.executable, [sys.executable, __file__, *where, *more])
            os._exit(1)

        start = time.monotonic()
        try:
            with deadline(seconds, go_on):
                work(check)
            check.say(done=True, seconds=time.monotonic() - start)
        except TooLong as error:
            check.say(error=str(error))
            failed = True
        except Exception as error:
            where = traceback.extract_tb(error.__traceback__)[-1]
            check.say(error=f"{type(error).__name__}: {error}"[:400], at=f"{Path(where.filename).name}:{where.lineno}")
            failed = True
        check.fresh()
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
