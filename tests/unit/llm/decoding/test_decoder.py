"""Generated answers against transformers' own `generate`, for every number of slots, resumed anywhere."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import small_corpus
import torch
from torch import Tensor, nn

from omniner.errors import UserError
from omniner.llm.decoding import decoder, prefix_cache
from omniner.llm.decoding.decoder import Answer, Decoder, DecodingRequest, most_repeats, repeats_itself

# peft 0.21 asks transformers 5.23 for a property by its old name
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")

VOCABULARY = 97
STOPS = frozenset({3, 11, 40, 71})
PREFIX = [(5 * n) % 83 + 12 for n in range(30)]
CONFIG = small_corpus.configuration("qwen2_tiny", "decoding.max_new_tokens=25", "decoding.slots=4").decoding


class LetterChat:
    """A letter per token."""

    stops = STOPS

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(chr(0x4E00 + token) for token in ids)


CHAT: Any = LetterChat()


def tiny(family: str, dtype: torch.dtype = torch.float32, **settings: Any) -> Any:
    """Random weights, scaled up until the likeliest token stands out."""
    from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

    kind, config, heads = {
        "qwen2": (Qwen2ForCausalLM, Qwen2Config, 2),  # two queries share a key head
        "llama": (LlamaForCausalLM, LlamaConfig, 4),  # one each
    }[family.removesuffix("-lora")]
    torch.manual_seed(1)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4}
    values = {**sizes, "vocab_size": VOCABULARY, "num_key_value_heads": heads, **settings}
    model = kind(config(attn_implementation="sdpa", bos_token_id=None, eos_token_id=None, pad_token_id=0, **values))
    model = model.to(dtype).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.normal_(0, 0.25) if weight.ndim == 2 else weight.add_(torch.randn_like(weight) * 0.1)
    return with_lora(model) if family.endswith("-lora") else model


def with_lora(model: Any) -> Any:
    from peft import LoraConfig, get_peft_model

    wrapped = get_peft_model(model, LoraConfig(r=4, lora_alpha=16, target_modules="all-linear", lora_dropout=0.3))
    with torch.no_grad():
        for name, weight in wrapped.named_parameters():
            if "lora_" in name:
                weight.normal_(0, 0.2)
    return wrapped.eval()


def requests(count: int) -> list[DecodingRequest]:
    chance = torch.Generator().manual_seed(5)
    lengths = torch.randint(1, 17, (count,), generator=chance).tolist()
    rests = [torch.randint(0, VOCABULARY, (length,), generator=chance).tolist() for length in lengths]
    return [DecodingRequest(f"s{n}", PREFIX + rest, f"text {n}") for n, rest in enumerate(rests)]


def new_decoder(
    model: nn.Module, constraint: Any = None, prefix: list[int] = PREFIX, seed: int = 0, **values: Any
) -> Decoder:
    return Decoder(model, CHAT, prefix, dataclasses.replace(CONFIG, **values), constraint, seed)


def collect(batches: Iterator[list[Answer]]) -> dict[str, Answer]:
    found = [answer for batch in batches for answer in batch]
    answers = {answer.id: answer for answer in found}
    assert len(answers) == len(found), "an answer came twice"
    return answers


def plain(model: Any, asked: Sequence[DecodingRequest], together: int) -> dict[str, Answer]:
    """What `generate` of transformers answers, on batches that are padded on the left."""
    answers = {}
    for at in range(0, len(asked), together):
        batch = asked[at : at + together]
        length = max(len(request.prompt) for request in batch)
        gaps = [length - len(request.prompt) for request in batch]
        ids = torch.tensor([[0] * gap + request.prompt for gap, request in zip(gaps, batch, strict=True)])
        mask = torch.tensor([[0] * gap + [1] * (length - gap) for gap in gaps])
        written = model.generate(
            input_ids=ids,
            attention_mask=mask,
            do_sample=False,
            max_new_tokens=CONFIG.max_new_tokens,
            eos_token_id=sorted(STOPS),
            pad_token_id=0,
        )
        for request, row in zip(batch, written[:, length:].tolist(), strict=True):
            end = next((place for place, token in enumerate(row) if token in STOPS), None)
            answers[request.id] = Answer(
                request.id, row[:end], CHAT.decode(row[:end]), "limit" if end is None else "model"
            )
    return answers


@pytest.mark.parametrize("family", ["qwen2", "llama", "qwen2-lora", "llama-lora"])
def test_equals_generate(family: str) -> None:
    model, asked = tiny(family), requests(30)
    with torch.no_grad():
        want = plain(model, asked, 1)
        assert plain(model, asked, 8) == want
    assert {answer.end for answer in want.values()} == {"model", "limit"}
    assert len({tuple(answer.tokens) for answer in want.values()}) > 20
    assert collect(new_decoder(model).run(asked)) == want


@pytest.mark.parametrize("slots", [1, 2, 7, 64])
def test_the_number_of_slots_changes_nothing(slots: int) -> None:
    model, asked = tiny("qwen2"), requests(70)
    assert collect(new_decoder(model, slots=slots).run(asked)) == collect(new_decoder(model).run(asked))


def test_any_prefix_gives_the_same_answers() -> None:
    model, asked = tiny("qwen2"), requests(20)
    want = collect(new_decoder(model).run(asked))
    for length in (0, 1, 29):
        assert collect(new_decoder(model, prefix=PREFIX[:length]).run(asked)) == want


def test_a_decoder_runs_again() -> None:
    model, asked = tiny("qwen2"), requests(20)
    one = new_decoder(model)
    assert collect(one.run(asked)) == collect(one.run(asked))
    assert collect(one.run(asked[:3])).keys() == {"s0", "s1", "s2"}
    assert list(one.run([])) == []


def test_new_sentences_wait_when_many_tokens_are_on_their_way(monkeypatch: pytest.MonkeyPatch) -> None:
    model, asked = tiny("qwen2"), requests(30)
    want = collect(new_decoder(model).run(asked))
    monkeypatch.setattr("omniner.llm.decoding.decoder._FRESH_TOKENS", 20)
    widths = watch_widths(model)
    assert collect(new_decoder(model, slots=16).run(asked)) == want
    assert max(widths[1:]) <= 20 + 15 + 16  # the last sentence may exceed it; all other slots decode


def watch_widths(model: Any) -> list[int]:
    """The number of tokens of each forward call from now on."""
    widths: list[int] = []
    model.register_forward_pre_hook(
        lambda _module, _args, values: widths.append(values["input_ids"].shape[1]), with_kwargs=True
    )
    return widths


class Watcher:
    """A constraint that allows everything and keeps the bits of what it sees."""

    def __init__(self) -> None:
        self.seen: dict[tuple[str, int], bytes] = {}

    def start(self, text: str, budget: int) -> WatchedAnswer:
        return WatchedAnswer(text)

    def mask(self, states: Sequence[WatchedAnswer], logits: Tensor) -> None:
        for state, row in zip(states, logits, strict=True):
            self.seen[state.text, state.length] = row.numpy().tobytes()


@dataclasses.dataclass
class WatchedAnswer:
    text: str
    length: int = 0
    ended: str = ""

    def advance(self, token: int) -> None:
        self.length += 1

    def forced(self) -> list[int]:
        return []


@pytest.mark.parametrize("temperature", [0.0, 1.5])
def test_an_interrupted_run_goes_on_with_every_bit(temperature: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefix_cache, "_GROWTH", 8)
    monkeypatch.setattr(decoder, "_SECONDS", 0.0)
    model, asked = tiny("qwen2"), requests(150)  # three groups
    options: Any = {"slots": 4, "temperature": temperature}
    whole = Watcher()
    batches = list(new_decoder(model, whole, **options).run(asked))
    want = collect(iter(batches))
    assert want.keys() == {request.id for request in asked}
    for stop in (1, len(batches) // 2, len(batches) - 1, len(batches)):
        done = frozenset(answer.id for batch in batches[:stop] for answer in batch)
        rest = Watcher()
        resumed = new_decoder(model, rest, **options)
        missing = collect(resumed.run(asked, done))
        assert missing == {name: answer for name, answer in want.items() if name not in done}
        assert rest.seen.items() <= whole.seen.items()
        assert resumed.repeated == (len(done) % 64 if missing else 0)  # the finished ones of the interrupted group


def test_a_torn_file_goes_on_too() -> None:
    model, asked = tiny("qwen2"), requests(100)
    want = collect(new_decoder(model).run(asked))
    done = frozenset(name for number, name in enumerate(want) if number % 3)
    missing = collect(new_decoder(model).run(asked, done))
    assert missing == {name: answer for name, answer in want.items() if name not in done}


def test_answers_are_given_out_as_they_come(monkeypatch: pytest.MonkeyPatch) -> None:
    model, asked = tiny("qwen2"), requests(12)
    want = collect(new_decoder(model).run(asked))
    widths, seen = watch_widths(model), []
    monkeypatch.setattr(decoder, "_SECONDS", 0.0)
    found, one = {}, new_decoder(model)
    for batch in one.run(asked):
        seen.append(len(widths))
        found |= {answer.id: answer for answer in batch}
        left = len(want) - len(found)
        assert one.unfinished == min(left, 4 - len(batch))  # who ended makes room for the next step
    assert found == want
    assert seen == [*range(2, len(widths) + 1)]  # the prefix, then after every step, also where no answer is ready
    assert one.unfinished == 0
    assert one.progress_note == "0 under way"


def test_progress_tells_of_answers_that_are_computed_again() -> None:
    model, asked = tiny("qwen2"), requests(12)
    one = new_decoder(model)
    collect(one.run(asked, frozenset(request.id for request in asked[:5])))
    assert one.progress_note == "0 under way, 5 computed again"


def test_groups_that_are_done_cost_nothing() -> None:
    model, asked = tiny("qwen2"), requests(40)
    widths = watch_widths(model)
    assert list(new_decoder(model, slots=1).run(asked, frozenset(request.id for request in asked))) == []
    assert widths == []


def test_drawn_answers_do_not_depend_on_neighbours() -> None:
    model, asked = tiny("qwen2"), requests(40)
    drawn: Any = {"temperature": 1.0, "top_p": 0.95}
    want = collect(new_decoder(model, **drawn).run(asked))
    assert collect(new_decoder(model, slots=9, **drawn).run(asked)) == want
    assert collect(new_decoder(model, seed=1, **drawn).run(asked)) != want
    assert collect(new_decoder(model).run(asked)) != want


class Script:
    """A constraint under which the answer about text t is t's letters, with a choice of two now and then.

    With `jump` it says what is forced, without it leaves the one allowed token to the model.
    """

    def __init__(self, jump: bool) -> None:
        self.jump = jump

    def start(self, text: str, budget: int) -> ScriptedAnswer:
        letters = [ord(letter) % 80 + 12 for letter in text]
        return ScriptedAnswer([letter + (letter in STOPS) for letter in letters], self.jump)

    def mask(self, states: Sequence[ScriptedAnswer], logits: Tensor) -> None:
        for state, row in zip(states, logits, strict=True):
            forbidden = torch.ones(VOCABULARY, dtype=torch.bool)
            forbidden[state.allowed()] = False
            row[forbidden] = -float("inf")


@dataclasses.dataclass
class ScriptedAnswer:
    letters: list[int]
    jump: bool
    told: list[int] = dataclasses.field(default_factory=list)
    ended: str = ""

    def allowed(self, ahead: int = 0) -> list[int]:
        place = len(self.told) + ahead
        if place >= len(self.letters):
            return [3]
        token = self.letters[place]
        return [token, 1] if token % 5 == 0 else [token]

    def advance(self, token: int) -> None:
        assert token in self.allowed(), "a forbidden token"
        self.told.append(token)

    def forced(self) -> list[int]:
        tokens: list[int] = []
        while self.jump and len(choice := self.allowed(len(tokens))) == 1:
            tokens += choice
            if choice == [3]:
                break
        return tokens


def test_forced_tokens_are_skipped_and_change_nothing() -> None:
    model = tiny("qwen2")
    texts = ["", "北京", "今天去了上海迪士尼乐园玩得很开心", "a" * 40, "我和外婆", "好" * 30] * 4
    asked = [
        DecodingRequest(f"s{n}", r.prompt, text) for n, (r, text) in enumerate(zip(requests(24), texts, strict=True))
    ]
    widths = watch_widths(model)
    want = collect(new_decoder(model, Script(jump=False)).run(asked))
    stepwise = len(widths)
    assert collect(new_decoder(model, Script(jump=True)).run(asked)) == want
    assert len(widths) - stepwise < 0.6 * stepwise
    assert want["s0"] == Answer("s0", [], "", "model")  # forced from the beginning
    assert want["s3"].end == "limit"
    assert len(want["s3"].tokens) == CONFIG.max_new_tokens
    assert want["s2"].end == "model"
    assert len(want["s2"].tokens) == 16
    assert 1 in {token for answer in want.values() for token in answer.tokens}


def test_the_model_is_as_before_whenever_something_is_given_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoder, "_SECONDS", 0.0)
    model, asked = tiny("llama-lora"), requests(20)
    with torch.no_grad():
        want = plain(model, asked, 4)
    model.train()
    model.base_model.model.model.layers[1].eval()
    model.get_base_model().set_attn_implementation("eager")
    modes = [module.training for module in model.modules()]
    weights = {name: weight.clone() for name, weight in model.state_dict().items()}
    run = new_decoder(model).run(asked)
    given = 0
    while given < 2:
        for answer in next(run):
            assert answer == want[answer.id]  # dropout was off
            given += 1
        assert [module.training for module in model.modules()] == modes
        assert model.get_base_model().config._attn_implementation == "eager"
    run.close()
    assert all(torch.equal(weight, weights[name]) for name, weight in model.state_dict().items())


def test_threads_that_ask_one_model_get_the_answers_that_they_would_get_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoder, "_SECONDS", 0.0)
    model, asked = tiny("qwen2").train(), requests(40)
    want = collect(new_decoder(model).run(asked))

    def ask(number: int) -> dict[str, Answer]:
        return collect(new_decoder(model).run(asked[number::4]))

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(ask, range(4)))
    assert {id: answer for part in found for id, answer in part.items()} == want
    assert model.config._attn_implementation == "sdpa"
    assert all(module.training for module in model.modules())


def test_a_thread_that_waits_comes_before_the_one_that_has_just_been() -> None:
    turns, order = decoder.Turns(), list[str]()

    def wait() -> None:
        with turns:
            order.append("waited")

    with turns:
        other = threading.Thread(target=wait)
        other.start()
        while not turns._door.locked():
            time.sleep(0.001)
    with turns:
        order.append("again")
    other.join()
    assert order == ["waited", "again"]


def test_the_model_is_as_before_after_an_error() -> None:
    class Broken(Watcher):
        def mask(self, states: Sequence[WatchedAnswer], logits: Tensor) -> None:
            raise RuntimeError("broken")

    model = tiny("qwen2").train()
    with pytest.raises(RuntimeError, match="broken"):
        list(new_decoder(model, Broken()).run(requests(3)))
    assert model.training
    assert model.config._attn_implementation == "sdpa"


def test_too_little_memory_is_told_with_what_to_do() -> None:
    class Greedy(Watcher):
        def mask(self, states: Sequence[WatchedAnswer], logits: Tensor) -> None:
            raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(UserError, match=r"decoding\.slots: 4 sentences side by side"):
        list(new_decoder(tiny("qwen2"), Greedy()).run(requests(3)))


def test_too_little_memory_for_the_prefix_is_told_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Decoder, "_forward", fail)
    with pytest.raises(UserError, match=r"decoding\.slots: 4 sentences side by side"):
        new_decoder(tiny("qwen2")).read_prefix()


def test_the_model_learns_on_after_answering() -> None:
    model = tiny("qwen2").train()
    collect(new_decoder(model).run(requests(3)))
    model(input_ids=torch.tensor([PREFIX]), labels=torch.tensor([PREFIX])).loss.backward()
    assert all(weight.grad is not None for weight in model.parameters())


def test_half_precision() -> None:
    exact, asked = tiny("qwen2"), requests(20)
    seen: dict[str, Watcher] = {name: Watcher() for name in ("float32", "bfloat16", "autocast")}
    answers = {"float32": collect(new_decoder(exact, seen["float32"]).run(asked))}
    half = tiny("qwen2").to(torch.bfloat16)
    answers["bfloat16"] = collect(new_decoder(half, seen["bfloat16"]).run(asked))
    with torch.autocast("cpu", torch.bfloat16):
        answers["autocast"] = collect(new_decoder(exact, seen["autocast"]).run(asked))
    want = torch.stack([as_row(seen["float32"].seen[request.text, 0]) for request in asked])
    for name in ("bfloat16", "autocast"):
        assert answers[name].keys() == answers["float32"].keys()
        found = torch.stack([as_row(seen[name].seen[request.text, 0]) for request in asked])
        assert 0 < float((found - want).norm() / want.norm()) < 0.05


def as_row(raw: bytes) -> Tensor:
    return torch.frombuffer(bytearray(raw), dtype=torch.float32)


def test_positions_that_the_model_has_not_learnt_are_not_used() -> None:
    longest = max(requests(20), key=lambda request: len(request.prompt))
    limited = tiny("qwen2", max_position_embeddings=len(longest.prompt) + 2)
    want = collect(new_decoder(tiny("qwen2"), max_new_tokens=2).run([longest]))
    assert collect(new_decoder(limited).run([longest])) == want
    full = tiny("qwen2", max_position_embeddings=len(longest.prompt))
    with pytest.raises(UserError, match=f"encoding.max_length: the prompt of sentence {longest.id}"):
        list(new_decoder(full).run([longest]))


@pytest.mark.parametrize("prompt", [PREFIX, [*PREFIX[:-1], 1, 2], []])
def test_prompts_without_the_prefix_are_a_fault(prompt: list[int]) -> None:
    with pytest.raises(ValueError, match="must begin with the prefix"):
        list(new_decoder(tiny("qwen2")).run([DecodingRequest("a", prompt, "")]))


def test_equal_ids_are_a_fault() -> None:
    with pytest.raises(ValueError, match="different ids"):
        list(new_decoder(tiny("qwen2")).run([*requests(2), *requests(1)]))


def test_models_that_forget_are_refused() -> None:
    from transformers import BloomConfig, BloomForCausalLM, MistralConfig, MistralForCausalLM

    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    windows = [
        tiny("qwen2", use_sliding_window=True, sliding_window=16, max_window_layers=1),
        MistralForCausalLM(MistralConfig(vocab_size=VOCABULARY, num_key_value_heads=2, sliding_window=16, **sizes)),
    ]
    for model in windows:
        with pytest.raises(UserError, match=r"model\.path: the model .* sliding"):
            new_decoder(model)
    own = BloomForCausalLM(BloomConfig(vocab_size=VOCABULARY, hidden_size=32, n_layer=1, n_head=2))
    with pytest.raises(UserError, match="AttentionInterface"):
        new_decoder(own)
    whole = MistralConfig(vocab_size=VOCABULARY, num_key_value_heads=2, sliding_window=None, pad_token_id=0, **sizes)
    assert collect(new_decoder(MistralForCausalLM(whole)).run(requests(3)))


def test_other_kinds_of_attention_are_refused() -> None:
    class Nothing(nn.Module):
        def forward(self, hidden_states: Tensor, **_: Any) -> tuple[Tensor, None]:
            return torch.zeros_like(hidden_states), None

    model = tiny("qwen2")
    model.model.layers[1].self_attn = Nothing()
    with pytest.raises(UserError, match="2 of 3 layers of Qwen2ForCausalLM"):
        list(new_decoder(model).run(requests(3)))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("family", ["qwen2", "llama-lora"])
def test_cuda_equals_cpu(family: str) -> None:
    model, asked = tiny(family), requests(40)
    want = collect(new_decoder(model).run(asked))
    model = model.cuda()
    for temperature in (0.0, 1.0):
        found = collect(new_decoder(model, temperature=temperature).run(asked))
        assert found.keys() == want.keys()
        assert temperature or found == want
    assert collect(new_decoder(model.to(torch.bfloat16)).run(asked)).keys() == want.keys()


def parrot(cycle: list[int], after: int) -> Any:
    """A model that ends no answer, and says the same few tokens over and over from some position on."""

    def repeat(module: nn.Module, args: Any, kwargs: dict[str, Any], result: Any) -> None:
        for row, place in enumerate(kwargs["logits_to_keep"].tolist()):
            position = int(kwargs["position_ids"][0, place])
            result.logits[0, row, sorted(STOPS)] = -torch.inf
            if position >= after:
                result.logits[0, row, cycle[position % len(cycle)]] = torch.inf

    model = tiny("qwen2")
    model.register_forward_hook(repeat, with_kwargs=True)
    return model


@pytest.mark.parametrize("cycle", [[5], [5, 6, 7], list(range(41, 61))])
def test_a_model_that_repeats_itself_does_not_hold_its_slot(cycle: list[int]) -> None:
    model, asked = parrot(cycle, after=60), requests(6)
    found = collect(new_decoder(model, max_new_tokens=400).run(asked))
    for answer in found.values():
        assert answer.end == "loop"
        assert len(answer.tokens) < 60 + max(48, 9 * len(cycle)) + 16
    # what a sentence has many times may be said as often
    repeated = [request._replace(text="哈" * 400) for request in asked]
    found = collect(new_decoder(model, max_new_tokens=99).run(repeated))
    assert {len(answer.tokens) for answer in found.values()} == {99}


def test_what_is_no_loop() -> None:
    assert not repeats_itself([1, 2, 3] * 8, 8)
    assert not repeats_itself([7] * 47, 8)
    assert not repeats_itself([1, 2, 3, 4, 5, 6] * 9 + [1], 9)
    assert repeats_itself([9, *[1, 2, 3, 4, 5, 6] * 9], 8)
    assert most_repeats("去北京") == 8
    assert most_repeats("哈" * 30 + "了") == 30


@pytest.mark.parametrize("family", ["qwen2", "llama-lora"])
def test_log_probabilities_are_those_of_the_whole_sequence(family: str) -> None:
    """Against one forward call of prompt and answer, for several numbers of slots; the answers stay the same."""
    model, asked = tiny(family), requests(9)
    bare = collect(new_decoder(model).run(asked))
    for slots in (1, 4):
        for answer in collect(new_decoder(model, slots=slots, scores=True).run(asked)).values():
            assert answer._replace(log_probabilities=()) == bare[answer.id]
            prompt = next(request.prompt for request in asked if request.id == answer.id)
            with torch.no_grad():
                logits = model(input_ids=torch.tensor([prompt + answer.tokens])).logits[0].float()
            rows = logits[len(prompt) - 1 : -1].log_softmax(1)
            want = rows[range(len(answer.tokens)), answer.tokens]
            torch.testing.assert_close(torch.tensor(answer.log_probabilities), want, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("jump", [False, True])
def test_log_probabilities_are_of_the_choice_that_a_constraint_leaves(jump: bool) -> None:
    model, script = tiny("qwen2"), Script(jump)
    (request,) = [one._replace(text="今天去了上海迪士尼乐园玩得很开心") for one in requests(1)]
    (answer,) = collect(new_decoder(model, script, scores=True).run([request])).values()
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([request.prompt + answer.tokens])).logits[0].float()
    state = script.start(request.text, 99)
    free, rows = 0, logits[len(request.prompt) - 1 : -1]
    for row, token, got in zip(rows, answer.tokens, answer.log_probabilities, strict=True):
        choice = state.allowed()
        assert got == pytest.approx(row[choice].log_softmax(0)[choice.index(token)].item(), abs=1e-4)
        free += len(choice) > 1
        state.advance(token)
    assert free > 1
