"""Convert a SentencePiece BPE tokenizer with byte fallback to a fast tokenizer that gives the same ids.

`tokenizer.model` is a protocol buffer of a published schema (`sentencepiece_model.proto`), of which the fields of six
messages matter. They are read here, because the processor of the `sentencepiece` package reveals neither the
user-defined pieces nor the settings that are rejected below.

The two kinds of BPE differ in what is joined first. Of all neighbours whose joined text is a piece, SentencePiece joins
those with the best score, and of equal scores the leftmost. `tokenizers` has a rank for each pair of pieces. So every
way to split a piece in two becomes a merge, ranked by the score of the whole. Splits of one piece, and the few pieces
of equal score, need an order of their own where SentencePiece goes by position. If two of them overlap, `xy = yz`, the
left part is the longer one in all but contrived states, because joining goes from left to right; so longer left parts
come first. User-defined pieces are cut out of the text before everything else, the longest first, and never join: they
become added tokens. A space is U+2581 internally, and a character without a piece is encoded as its UTF-8 bytes.

Control pieces (`<s>`) that are written out in a text are plain text to SentencePiece. Here they are special tokens, as
chat templates need, and plain text with `encode_special_tokens = True`. A NUL character keeps its own piece if there is
one, as in all releases of SentencePiece up to 0.2.0; later ones read it as a byte.

Settings that a fast tokenizer could only imitate (a character map, a dummy prefix, stripped spaces, a Unigram model)
are rejected: neither Baichuan2 nor InternLM2 has them, and nearly the same ids are wrong ids.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, processors

from omniner.convert import layouts
from omniner.convert.layouts import Settings
from omniner.errors import UserError
from omniner.files import explaining, write_json, write_text

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5  # wire types of a protocol buffer
_LONGEST_VARINT = 70  # bits, in groups of seven
BPE = 2  # `TrainerSpec.ModelType`

_SPACE = "▁"  # U+2581
_COPY_AGAIN = "Copy the checkpoint's file again."
_ROLES = ("bos_token", "eos_token", "unk_token", "pad_token")


class PieceKind(IntEnum):
    """The kind of a piece (`SentencePiece.Type`)."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@dataclass(frozen=True, slots=True)
class TokenPiece:
    """One entry of the vocabulary; its id is its index in the list."""

    text: str
    score: float = 0.0
    kind: PieceKind = PieceKind.NORMAL


@dataclass(frozen=True, slots=True)
class PieceModel:
    """Pieces in the order of their ids, and settings; the defaults are those of the schema."""

    pieces: tuple[TokenPiece, ...]
    algorithm: int = 1
    byte_fallback: bool = False
    whitespace_as_suffix: bool = False
    character_map: bytes = b""
    add_dummy_prefix: bool = True
    remove_extra_whitespaces: bool = True
    escape_whitespaces: bool = True
    decoding_map: bytes = b""


def read_piece_model(path: Path) -> PieceModel:
    """Read a `tokenizer.model`.

    Raises:
        UserError: the file is missing or is not a SentencePiece model.
    """
    with explaining(path):
        data = path.read_bytes()
    try:
        model = _model(data)
    except (ValueError, IndexError, struct.error) as error:  # UnicodeDecodeError is a ValueError
        found = f"it is no SentencePiece model ({error})"
        raise UserError(path, found, "Copy the checkpoint's tokenizer.model again.") from error
    if not model.pieces:
        raise UserError(path, "a SentencePiece model without pieces", "Copy the checkpoint's tokenizer.model again.")
    return model


def _model(data: bytes) -> PieceModel:
    pieces: list[TokenPiece] = []
    settings: dict[str, int | bytes] = {}
    for field, value in _fields(data):
        if field == 1:
            pieces.append(_piece(_message(value)))
        elif field == 2:
            names = {3: "algorithm", 24: "whitespace_as_suffix", 35: "byte_fallback"}
            settings |= _named(_message(value), names)
        elif field == 3:
            names = {
                2: "character_map",
                3: "add_dummy_prefix",
                4: "remove_extra_whitespaces",
                5: "escape_whitespaces",
            }
            settings |= _named(_message(value), names)
        elif field == 5:
            settings |= _named(_message(value), {2: "decoding_map"})
    return PieceModel(tuple(pieces), **settings)  # type: ignore[arg-type]  # flags are the numbers 0 and 1


def _piece(data: bytes) -> TokenPiece:
    values = dict(_fields(data))
    text, score, kind = values.get(1, b""), values.get(2, b"\0\0\0\0"), values.get(3, PieceKind.NORMAL)
    return TokenPiece(_message(text).decode("utf-8"), struct.unpack("<f", _message(score))[0], PieceKind(int(kind)))


def _named(data: bytes, names: dict[int, str]) -> dict[str, int | bytes]:
    return {names[field]: value for field, value in _fields(data) if field in names}


def _message(value: int | bytes) -> bytes:
    if isinstance(value, int):
        raise ValueError("a number where a message should be")
    return value


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Yield the (field number, value) pairs of a message: a number for varints, raw bytes for everything else."""
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        field, wire = tag >> 3, tag & 7
        if wire == _VARINT:
            number, at = _varint(data, at)
            yield field, number
            continue
        if wire == _BYTES:
            length, at = _varint(data, at)
        elif wire in (_FIXED32, _FIXED64):
            length = 4 if wire == _FIXED32 else 8
        else:
            raise ValueError(f"unknown wire type {wire}")
        if at + length > len(data):
            raise ValueError("it ends too early")
        yield field, data[at : at + length]
        at += length


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """Read a number in groups of seven bits, lowest first; return it and the position after it."""
    number = shift = 0
    while shift < _LONGEST_VARINT:
        byte = data[at]
        number |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return number, at
    raise ValueError("a number of more than 64 bits")


def build_tokenizer(model_file: Path, special: Mapping[int, str] | None = None) -> Tokenizer:
    """Build a fast tokenizer with the same vocabulary and ids.

    Args:
        model_file: a SentencePiece BPE model with byte fallback.
        special: special tokens by id, in addition to the unknown and control pieces; an id that has a piece renames it.

    Raises:
        UserError: another kind of file or of model, or special tokens that do not fit its vocabulary.
    """
    model = read_piece_model(model_file)
    _check(model_file, model)
    special = {
        i: piece.text for i, piece in enumerate(model.pieces) if piece.kind in (PieceKind.UNKNOWN, PieceKind.CONTROL)
    } | (dict(special or {}))
    vocabulary = {special.get(i, piece.text): i for i, piece in enumerate(model.pieces)}
    unknown = next(special[i] for i, piece in enumerate(model.pieces) if piece.kind == PieceKind.UNKNOWN)
    tokenizer = Tokenizer(models.BPE(vocabulary, _merges(model), unk_token=unknown, byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Replace(" ", _SPACE)
    tokenizer.decoder = decoders.Sequence([decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse()])
    plain = [p.text for i, p in enumerate(model.pieces) if p.kind == PieceKind.USER_DEFINED and i not in special]
    tokenizer.add_tokens([AddedToken(text, normalized=False) for text in plain])
    tokenizer.add_special_tokens([AddedToken(special[i], normalized=False, special=True) for i in sorted(special)])
    for i, text in sorted(special.items()):
        if tokenizer.token_to_id(text) != i:
            found = f"the special token {text} should be {i} and would be {tokenizer.token_to_id(text)}"
            raise UserError(model_file, found, "Use the tokenizer settings that belong to this file.")
    return tokenizer


def write_tokenizer(source: Path, output: Path, special: Mapping[int, str], template: str | None, add_bos: bool) -> int:
    """Write `tokenizer.json` and `tokenizer_config.json` for a checkpoint folder.

    Args:
        source: folder with `tokenizer.model` and `tokenizer_config.json`.
        output: an existing folder.
        special: special tokens of the family, by id, in addition to those in the settings.
        template: chat template if the settings have none.
        add_bos: whether texts begin with `bos_token` if the settings do not say.

    Returns:
        The number of tokens, special ones included.

    Raises:
        UserError: the files do not fit each other.
    """
    settings = layouts.read_settings(source / "tokenizer_config.json")
    path, listed = settings.path, settings.mapping("added_tokens_decoder")
    if strange := [key for key in listed if not re.fullmatch("[0-9]{1,9}", key)]:
        raise UserError(path, f"added_tokens_decoder has {strange[0][:60]!r} for an id", _COPY_AGAIN)
    added = {int(key): token for key, token in listed.items()}
    wanted = {_text(token, path): i for i, token in added.items()}
    named = {i: _text(token, path) for i, token in added.items() if isinstance(token, dict) and token.get("special")}
    tokenizer = build_tokenizer(source / "tokenizer.model", {**special, **named})
    roles = {role: _text(settings.get(role), path) for role in _ROLES if settings.get(role) is not None}
    others = [_text(token, path) for token in settings.get("additional_special_tokens") or []]
    for text in (*wanted, *roles.values(), *others):
        found = tokenizer.token_to_id(text)
        if found is None or found != wanted.get(text, found):
            what = f"the token {text} has {'no id' if found is None else f'the id {found}'} in tokenizer.model"
            raise UserError(settings.path, what, "Use the two files of one checkpoint.")
    if settings.get("add_bos_token", add_bos):
        _add_bos(settings, tokenizer, roles)
    written = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **roles,
        "additional_special_tokens": others or None,
        "model_max_length": settings.get("model_max_length"),
        "model_input_names": ["input_ids", "attention_mask"],
        "clean_up_tokenization_spaces": False,  # it would remove spaces before punctuation
        "chat_template": _template(source, settings) or template,
    }
    write_text(output / "tokenizer.json", tokenizer.to_str())
    write_json(output / "tokenizer_config.json", {key: value for key, value in written.items() if value is not None})
    return int(tokenizer.get_vocab_size(with_added_tokens=True))


def _check(path: Path, model: PieceModel) -> None:
    """Reject a model whose fast tokenizer would not give the same ids."""
    kinds = {piece.kind for piece in model.pieces}
    texts = {piece.text for piece in model.pieces if piece.kind in (PieceKind.NORMAL, PieceKind.USER_DEFINED)}
    wrong = {
        "is not BPE": model.algorithm != BPE,
        "has no byte fallback": not model.byte_fallback
        or PieceKind.BYTE not in kinds
        or PieceKind.UNKNOWN not in kinds,
        "maps characters": bool(model.character_map or model.decoding_map),
        "adds a space before a text": model.add_dummy_prefix,
        "strips spaces": model.remove_extra_whitespaces,
        "keeps spaces as they are": not model.escape_whitespaces,
        "puts spaces after words": model.whitespace_as_suffix,
        "has unused pieces": PieceKind.UNUSED in kinds,
        "names a piece twice": len({piece.text for piece in model.pieces}) < len(model.pieces),
        "has pieces of characters it lacks": any(
            set(piece.text) - texts for piece in model.pieces if piece.kind == PieceKind.NORMAL and len(piece.text) > 1
        ),
    }
    if found := [what for what, is_so in wrong.items() if is_so]:
        fix = "Use the tokenizer.model of Baichuan2 or InternLM2 as published."
        raise UserError(path, f"this SentencePiece model {' and '.join(found)}: no fast tokenizer is the same", fix)


def _merges(model: PieceModel) -> list[tuple[str, str]]:
    """Return every pair of pieces that forms a piece, in joining order (see the module's docstring)."""
    scores = {piece.text: piece.score for piece in model.pieces if piece.kind == PieceKind.NORMAL}
    pairs = [
        (text[:cut], text[cut:])
        for text in scores
        for cut in range(1, len(text))
        if text[:cut] in scores and text[cut:] in scores
    ]
    return sorted(pairs, key=lambda pair: (-scores[pair[0] + pair[1]], -len(pair[0]), pair))


def _text(token: object, path: Path) -> str:
    """Return the text of a token in the settings of `path`: a string, or an object that contains it."""
    text = token.get("content") if isinstance(token, dict) else token
    if not isinstance(text, str):
        raise UserError(path, f"{token!r:.60} stands where a token belongs", _COPY_AGAIN)
    return text


def _template(source: Path, settings: Settings) -> str | None:
    path = source / "chat_template.jinja"  # newer files of transformers; it takes precedence there, too
    with explaining(path):
        return path.read_text(encoding="utf-8") if path.is_file() else settings.get("chat_template")


def _add_bos(settings: Settings, tokenizer: Tokenizer, roles: Mapping[str, str]) -> None:
    bos = roles.get("bos_token")
    if bos is None:
        fix = "Name it, or set add_bos_token to false."
        raise UserError(settings.path, "texts begin with a bos_token, which is not named", fix)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A", pair=f"{bos} $A $B", special_tokens=[(bos, tokenizer.token_to_id(bos))]
    )
