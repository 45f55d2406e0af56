"""The content of a SentencePiece `tokenizer.model`: its pieces and the settings that decide how text becomes pieces.

In goes the file, out comes a `PieceModel`. The file is a protocol buffer of a published schema
(`sentencepiece_model.proto`) of which six messages' fields matter, so it is read here in a page of code instead of by
two more dependencies. Fields that are not needed are stepped over; what is no such file is one `UserError`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

from omniner.errors import UserError
from omniner.files import explaining

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5  # wire types of a protocol buffer
BPE = 2  # `TrainerSpec.ModelType`


class Kind(IntEnum):
    """What a piece is (`SentencePiece.Type`)."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@dataclass(frozen=True, slots=True)
class Piece:
    """One entry of the vocabulary; its id is its place in the list."""

    text: str
    score: float = 0.0
    kind: Kind = Kind.NORMAL


@dataclass(frozen=True, slots=True)
class PieceModel:
    """Pieces in the order of their ids, and settings; the defaults are those of the schema."""

    pieces: tuple[Piece, ...]
    algorithm: int = 1
    byte_fallback: bool = False
    whitespace_as_suffix: bool = False
    character_map: bytes = b""
    add_dummy_prefix: bool = True
    remove_extra_whitespaces: bool = True
    escape_whitespaces: bool = True
    decoding_map: bytes = b""


def read(path: Path) -> PieceModel:
    """Read a `tokenizer.model`.

    Raises:
        UserError: the file is missing or is no SentencePiece model.
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
    pieces: list[Piece] = []
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


def _piece(data: bytes) -> Piece:
    values = dict(_fields(data))
    text, score, kind = values.get(1, b""), values.get(2, b"\0\0\0\0"), values.get(3, Kind.NORMAL)
    return Piece(_message(text).decode("utf-8"), struct.unpack("<f", _message(score))[0], Kind(int(kind)))


def _named(data: bytes, names: dict[int, str]) -> dict[str, int | bytes]:
    return {names[field]: value for field, value in _fields(data) if field in names}


def _message(value: int | bytes) -> bytes:
    if isinstance(value, int):
        raise ValueError("a number where a message should be")
    return value


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """The (field number, value) pairs of a message: a number for varints, raw bytes for all else."""
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
    """A number in groups of seven bits, lowest first, and the place after it."""
    number = shift = 0
    while True:
        byte = data[at]
        number |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return number, at
