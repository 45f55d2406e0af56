"""Fast tokenizers made of SentencePiece files give SentencePiece's ids: the published files and contrived ones."""

from __future__ import annotations

import io
import json
import random
import re
import shutil
from collections import defaultdict
from collections.abc import Sequence
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_checkpoints import BAICHUAN2, piece_file
from tokenizers import Tokenizer

from omniner.convert import tokenizer
from omniner.convert.layouts import Settings, find_layout
from omniner.convert.tokenizer import PieceKind
from omniner.errors import UserError
from omniner.llm.chat_tokenizer import ChatTokenizer

FAMILIES = ("internlm2", "baichuan2")
AWKWARD = [
    "",
    " ",
    "  前后都有空格  ",
    "a  b   c    d     e",
    "\n\n\t\t换行\r\n制表\t符 \n \t",
    "　　全角空格　和 不间断 空格",
    "零宽​连接‍字符\ufeff标记",
    "👩‍👩‍👧‍👦一家👍🏽👩🏿‍🚀🏳️‍🌈🇨🇳❤️😂😂😂",
    "生僻字：𠮷𡈽𪚥龘䶮，偏旁⺮，表意描述⿰",
    "2024年11月22日 13:45:07，价格￥1,234.50～100%，约合１２３４元",
    "ＡＢＣＥＦＧ ａｂｃ，全角字母与“引号”——破折号……省略号",
    "Café naïve Ångström e\u0301 ﬁ ﬀ ½ ² ℃ №",
    "العربية עברית हिन्दी ไทย 한국어 日本語テスト Ελληνικά Русский",
    "▁▁下划线▁a▁ ▁",
    "<0x0A><0xE4>字面的字节<unk >",
    '[["北京", "地点_城市"], ["👶🏻", "a"]]',
    "def f(x):\n    return x  # 注释\n\n\n",
    "........。。。。。。、、！！！？？？~~~====------+++***",
    "http://例子.测试/a?b=c&d=%E4%BD%A0",
    "\u0001\u007f\u0085\u2028\u2029\U0010fffd\ue000\uffff",
    "好" * 500,
    "长文本不分词" * 300,
    "啊" * 7 + " " * 130 + "哈" * 9 + "\n" * 70 + "\t" * 33,
]
CONTEXTS = [("", ""), ("x", ""), ("", "\n"), (" ", "的"), ("\t", "x")]
BASE = [("<unk>", 0.0, 2), ("<s>", 0.0, 3), ("</s>", 0.0, 3), *((f"<0x{i:02X}>", 0.0, 6) for i in range(256))]


@cache
def _pair(model_file: Path) -> tuple[Tokenizer, Any]:
    sentencepiece = pytest.importorskip("sentencepiece")
    return tokenizer.build_tokenizer(model_file), sentencepiece.SentencePieceProcessor(model_file=str(model_file))


@pytest.fixture(params=FAMILIES)
def pair(request: pytest.FixtureRequest, shared: Path) -> tuple[Tokenizer, Any]:
    """The converted tokenizer of a published file, and SentencePiece with that file."""
    return _pair(shared / "tokenizers" / request.param / "tokenizer.model")


def _agree(pair: tuple[Tokenizer, Any], texts: Sequence[str], decoding: bool = True) -> None:
    """The same ids; and the text back, if every character of it can come back."""
    ours, theirs = pair
    found = [encoding.ids for encoding in ours.encode_batch(list(texts), add_special_tokens=False)]
    for text, ids, expected in zip(texts, found, theirs.encode(list(texts)), strict=True):
        assert ids == expected, repr(text)
        if decoding:
            assert ours.decode(ids) == text.replace("▁", " ")  # SentencePiece, too, takes U+2581 for a space


def test_awkward_texts(pair: tuple[Tokenizer, Any]) -> None:
    _agree(pair, AWKWARD)


def test_real_sentences(pair: tuple[Tokenizer, Any], shared: Path) -> None:
    """Some thousands of sentences of five corpora."""
    texts = []
    for name in ("train.json", "dev.json"):
        lines = (shared / "data" / "cluener" / name).read_text(encoding="utf-8").splitlines()
        texts += [json.loads(line)["text"] for line in lines]
    for name in ("weibo/weiboNER.conll.train", "resume/train.char.bmes", "wnut17/wnut17train.conll"):
        content = (shared / "data" / name).read_text(encoding="utf-8", errors="surrogatepass")
        for block in re.split(r"\n\s*\n", content)[:3000]:
            words = [line.split()[0] for line in block.splitlines() if line.strip()]
            halves = (" " if "wnut" in name else "").join(words)  # Weibo has emoji as two surrogates, a line each
            texts.append(halves.encode("utf-16", "surrogatepass").decode("utf-16", "replace"))
    texts += (shared / "data" / "cmeee" / "val_data.txt").read_text(encoding="utf-8").splitlines()[:3000]
    assert len(texts) > 15_000
    _agree(pair, texts)
    pages = ["\n".join(texts[start : start + 40]) for start in range(0, 4000, 40)]
    _agree(pair, pages)


TEXTS = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), max_size=60)
CLOSE = st.text(st.sampled_from("ab01 \t\n.-=_的了一，。…—　▁Ｅ０️‍👍😀é"), max_size=60)


@pytest.mark.parametrize("family", FAMILIES)
@given(text=st.one_of(TEXTS, CLOSE))
@settings(max_examples=400, deadline=None)
def test_any_text(shared: Path, family: str, text: str) -> None:
    _agree(_pair(shared / "tokenizers" / family / "tokenizer.model"), [text])


def test_pieces_side_by_side(pair: tuple[Tokenizer, Any]) -> None:
    """Random pieces of the vocabulary joined to one text: joins across their borders compete with those inside."""
    theirs = pair[1]
    plain = [i for i in range(len(theirs)) if not (theirs.is_control(i) or theirs.is_unknown(i) or theirs.is_byte(i))]
    pieces = [theirs.id_to_piece(i) for i in plain if theirs.id_to_piece(i) != "\0"]
    chance = random.Random(0)
    _agree(pair, ["".join(chance.choices(pieces, k=chance.randint(2, 12))) for _ in range(5000)])


def test_ties(pair: tuple[Tokenizer, Any]) -> None:
    """Texts in which two joins of the same score are in each other's way: SentencePiece does the left one first."""
    ours, theirs = pair
    added = ours.get_added_tokens_decoder()
    normal = [i for i in range(len(theirs)) if i not in added and not theirs.is_byte(i)]
    scores = {theirs.id_to_piece(i): theirs.get_score(i) for i in normal}
    splits = defaultdict(list)
    for text, score in scores.items():
        splits[score] += [(text[:cut], text[cut:]) for cut in range(1, len(text))]
    texts = set()
    for score, group in splits.items():
        joins = [(left, right) for left, right in group if left in scores and right in scores]
        for (a, b), (c, d) in product(joins, joins):
            if (a, b) == (c, d):
                continue
            if b == c:
                texts.add(a + b + d)
            if scores.get(a + b + c, score - 1) > score or scores.get(b + c + d, score - 1) > score:
                texts |= {a + b + c + d, c + d + a + b}
    assert len(texts) > 400
    runs = [
        left + char * n + right
        for char in " -=.a*_\n\t0，的哈~#/…—Ｅ"
        for n in range(1, 100)
        for left, right in CONTEXTS
    ]
    _agree(pair, [*sorted(texts), *(text.replace("▁", " ") for text in sorted(texts)), *runs])


def test_control_tokens_are_special_or_text(pair: tuple[Tokenizer, Any]) -> None:
    ours, theirs = pair
    assert ours.encode("<s>a</s><unk>", add_special_tokens=False).ids == [1, *theirs.encode("a"), 2, 0]
    ours.encode_special_tokens = True
    try:
        _agree(pair, ["<s>a</s><unk>", "<s", "</s> </s>"])
    finally:
        ours.encode_special_tokens = False


def test_the_nul_character_keeps_its_piece(shared: Path) -> None:
    """SentencePiece up to 0.2.0 gives the piece 354; later releases warn and give the byte."""
    ours, _ = _pair(shared / "tokenizers" / "internlm2" / "tokenizer.model")
    assert ours.encode("a\0b", add_special_tokens=False).ids == [264, 354, 260]
    assert ours.decode([264, 354, 260]) == ours.decode([264, 3, 260]) == "a\0b"


def test_special_tokens_rename_pieces(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.model"
    path.write_bytes(piece_file([*BASE, ("a", 0.0, 1), ("b", 0.0, 1), ("[UNUSED_1]", 0.0, 4), ("\n", 0.0, 4)]))
    ours = tokenizer.build_tokenizer(path, {261: "<|end|>", 263: "<|new|>"})
    ids = ours.encode("<|new|>a\nb<|end|>").ids
    assert ids == [263, 259, 262, 260, 261]
    assert ours.decode(ids) == "a\nb"  # the user-defined newline is no special token
    assert ours.decode(ids, skip_special_tokens=False) == "<|new|>a\nb<|end|>"
    assert ours.token_to_id("[UNUSED_1]") is None
    with pytest.raises(UserError, match=re.escape("<|end|> should be 300 and would be 263")):
        tokenizer.build_tokenizer(path, {300: "<|end|>"})


def _folder(shared: Path, family: str, folder: Path) -> Path:
    """A checkpoint's tokenizer as published; the settings at hand are those of a model with image tokens on top."""
    folder.mkdir()
    given = shared / "tokenizers" / family
    shutil.copyfile(given / "tokenizer.model", folder / "tokenizer.model")
    name = "internvl2.tokenizer_config.json" if family == "internlm2" else "tokenizer_config.json"
    values = json.loads((given / name).read_text(encoding="utf-8"))
    if family == "internlm2":
        values["added_tokens_decoder"] = {k: v for k, v in values["added_tokens_decoder"].items() if int(k) < 92544}
        values["additional_special_tokens"] = values["additional_special_tokens"][:6]
    (folder / "tokenizer_config.json").write_text(json.dumps(values), encoding="utf-8")
    return folder


def _answers_come_back(loaded: Any, end: int) -> None:
    """The tokenizer serves a chat: its template's end is found, answers are decoded as they were."""
    chat = ChatTokenizer(loaded, None)
    assert chat.end[0] == end
    answer = '[["北京 ", "地点_城市"]]\n'
    assert chat.decode(chat.answer_ids(answer)) == answer


def _loaded(folder: Path) -> Any:
    from transformers import AutoTokenizer

    (folder / "config.json").write_text(json.dumps({"model_type": "llama"}))
    return AutoTokenizer.from_pretrained(folder, trust_remote_code=False)


def test_internlm2_as_transformers_loads_it(shared: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    source = _folder(shared, "internlm2", tmp_path / "in")
    assert tokenizer.write_tokenizer(source, tmp_path / "out", {}, None, add_bos=True) == 92544
    loaded = _loaded(tmp_path / "out")
    theirs = _pair(shared / "tokenizers" / "internlm2" / "tokenizer.model")[1]
    assert (loaded.bos_token_id, loaded.eos_token_id, loaded.unk_token_id, loaded.pad_token_id) == (1, 2, 0, 2)
    assert loaded("你好， x").input_ids == [1, *theirs.encode("你好， x")]
    turns = [{"role": "system", "content": "系统"}, {"role": "user", "content": "你好 "}]
    ids = loaded.apply_chat_template(turns, add_generation_prompt=True, return_dict=False)
    expected = [1]
    for turn in turns:
        expected += [92543, *theirs.encode(f"{turn['role']}\n{turn['content']}"), 92542, *theirs.encode("\n")]
    assert ids == [*expected, 92543, *theirs.encode("assistant\n")]
    text = "  a , b 👍🏽 不，要 . 清理 !\n"
    assert loaded.decode(loaded(text).input_ids, skip_special_tokens=True) == text
    _answers_come_back(loaded, 92542)


def test_baichuan2_as_transformers_loads_it(shared: Path, tmp_path: Path) -> None:
    plan = find_layout(Settings(Path("config.json"), BAICHUAN2))
    (tmp_path / "out").mkdir()
    source = _folder(shared, "baichuan2", tmp_path / "in")
    assert tokenizer.write_tokenizer(source, tmp_path / "out", plan.special, plan.template, plan.add_bos) == 125696
    loaded = _loaded(tmp_path / "out")
    theirs = _pair(shared / "tokenizers" / "baichuan2" / "tokenizer.model")[1]
    assert (loaded.bos_token_id, loaded.eos_token_id, loaded.unk_token_id, loaded.pad_token_id) == (1, 2, 0, 0)
    assert loaded("你好， x").input_ids == theirs.encode("你好， x")  # no <s>
    turns = [
        {"role": "system", "content": "系统"},
        {"role": "user", "content": " 问一\n"},
        {"role": "assistant", "content": "答一"},
        {"role": "user", "content": "问二"},
    ]
    ids = loaded.apply_chat_template(turns, add_generation_prompt=True, return_dict=False)
    # As the model's own code puts a chat together, and the end of an answer, which it is trained to write.
    expected = [*theirs.encode("系统"), 195, *theirs.encode(" 问一\n"), 196, *theirs.encode("答一"), 2]
    assert ids == [*expected, 195, *theirs.encode("问二"), 196]
    text = "  a , b 👍🏽 不，要 . 清理 !\n"
    assert loaded.decode([195, *loaded(text).input_ids, 196], skip_special_tokens=True) == text
    _answers_come_back(loaded, 2)


def _train(path: Path, texts: Sequence[str], **options: Any) -> Path:
    sentencepiece = pytest.importorskip("sentencepiece")
    plain = {
        "model_type": "bpe",
        "byte_fallback": True,
        "add_dummy_prefix": False,
        "remove_extra_whitespaces": False,
        "normalization_rule_name": "identity",
        "allow_whitespace_only_pieces": True,
        "split_by_whitespace": False,
        "hard_vocab_limit": False,
        "minloglevel": 2,
    }
    model = io.BytesIO()
    options = {**plain, "vocab_size": 500, **options}
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(texts), model_writer=model, **options)
    path.write_bytes(model.getvalue())
    return path


@pytest.mark.parametrize("alphabet", ["ab", "ab ", "甲乙丙 ab\t", "aaaaab-="])
def test_small_vocabularies_full_of_ties(tmp_path: Path, alphabet: str) -> None:
    """Trained on noise over few characters, nearly all joins compete."""
    chance = random.Random(alphabet)
    noise = ["".join(chance.choices(alphabet, k=chance.randint(1, 40))) for _ in range(6000)]
    user = ["--", "-=-", "b=", "乙丙"]
    pair = _pair(_train(tmp_path / "tokenizer.model", noise[:3000], user_defined_symbols=user))
    assert pair[1].get_piece_size() > 350
    _agree(pair, noise)


def test_all_fields_are_read(shared: Path) -> None:
    for family in FAMILIES:
        path = shared / "tokenizers" / family / "tokenizer.model"
        model, theirs = tokenizer.read_piece_model(path), _pair(path)[1]
        assert len(model.pieces) == len(theirs)
        for i, piece in enumerate(model.pieces):
            assert (piece.text, piece.score) == (theirs.id_to_piece(i), theirs.get_score(i))
            assert (piece.kind == PieceKind.BYTE) == theirs.is_byte(i)
            assert (piece.kind == PieceKind.CONTROL) == theirs.is_control(i)
            assert (piece.kind == PieceKind.UNKNOWN) == theirs.is_unknown(i)
        assert model == tokenizer.PieceModel(
            model.pieces, 2, byte_fallback=True, add_dummy_prefix=False, remove_extra_whitespaces=False
        )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model_type": "unigram"}, "is not BPE"),
        ({"byte_fallback": False}, "has no byte fallback"),
        ({"add_dummy_prefix": True}, "adds a space before a text"),
        ({"remove_extra_whitespaces": True}, "strips spaces"),
        ({"normalization_rule_name": "nmt_nfkc"}, "maps characters"),
        ({"treat_whitespace_as_suffix": True}, "puts spaces after words"),
    ],
)
def test_models_that_a_fast_tokenizer_only_imitates_are_refused(
    tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    chance = random.Random(0)
    noise = ["".join(chance.choices("abcdef ", k=30)) for _ in range(500)]
    with pytest.raises(UserError, match=message):
        tokenizer.build_tokenizer(_train(tmp_path / "tokenizer.model", noise, **options))


@pytest.mark.parametrize(
    ("pieces", "message"),
    [
        ([("a", 0.0, 1), ("b", -1.0, 1), ("ab", -2.0, 5)], "has unused pieces"),
        ([("a", 0.0, 1), ("a", -1.0, 1)], "names a piece twice"),
        ([("a", 0.0, 1), ("ab", -1.0, 1)], "has pieces of characters it lacks"),
    ],
)
def test_odd_vocabularies_are_refused(tmp_path: Path, pieces: list[tuple[str, float, int]], message: str) -> None:
    path = tmp_path / "tokenizer.model"
    path.write_bytes(piece_file([*BASE, ("a", 0.0, 1), ("b", 0.0, 1)]))
    assert tokenizer.build_tokenizer(path).encode("ab").ids == [259, 260]
    path.write_bytes(piece_file([*BASE, *pieces]))
    with pytest.raises(UserError, match=message):
        tokenizer.build_tokenizer(path)


@pytest.mark.parametrize(
    "content", [b"", b"\n", b"{}", b"not a model at all", b"\x0a\x05\x0a\x03\xff\xfe\xfd", b"\xff" * 11]
)
def test_other_files_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "tokenizer.model"
    path.write_bytes(content)
    with pytest.raises(UserError, match="SentencePiece model"):
        tokenizer.build_tokenizer(path)


def test_a_torn_file_is_refused(shared: Path, tmp_path: Path) -> None:
    data = (shared / "tokenizers" / "internlm2" / "tokenizer.model").read_bytes()
    (tmp_path / "tokenizer.model").write_bytes(data[: len(data) // 2])
    with pytest.raises(UserError, match=r"tokenizer\.model"):
        tokenizer.build_tokenizer(tmp_path / "tokenizer.model")
