"""Extract (surface, category) pairs from decoded values, whatever shape a model gave them.

An object with a known key for the surface and one for the category is an entity, whatever else it contains (scores,
offsets, ids); its keys are never surfaces. If only the category has a known key, with a value that looks like a
category, the text under the only unknown key is the surface, if that is certain. Any other object groups surfaces under
its keys, which are categories; only if the keys clearly are surfaces, the values are the categories. Wrappers
(`{"entities": ...}`), tool calls (`{"name": ..., "arguments": ...}`) and JSON inside a string are unwrapped.

Surface and category are distinguished, in this order, by the names of the keys, the categories that the caller knows,
the sentence, and common forms of category names. If nothing decides, there is no pair. In a list or object that breaks
off, complete entities count; the one that breaks off does not.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

from omniner.answers.known_names import (
    CALL_KEYS,
    CATEGORY_KEYS,
    EITHER_KEYS,
    NOTHING,
    REMARKS,
    SURFACE_KEYS,
    WRAPPERS,
    is_special,
    looks_like_category,
    normal_key,
)
from omniner.answers.loose_json import (
    MAX_DEPTH,
    CutList,
    CutObject,
    CutText,
    NumberText,
    Object,
    decode,
    find_start,
    scan,
)

Pair = tuple[str, str]

_MAX_LAYERS = 3  # of JSON in a string in JSON ...
_LONGEST_PAIR = 200  # characters of a surface and its category in one string


_COMMAS = re.compile(r"[,，]\s*")
_BETWEEN = re.compile(r"\s*(?:->|→|=>|[:：|｜\t])\s*|\s+[-–—/]+\s+")
_PARENTHESIS = re.compile(r"([^()（）\[\]【】]+?)\s*[(（\[【]([^()（）\[\]【】]+)[)）\]】]")
_LISTED = re.compile(r"\s*[、,，;；]\s*")
_ANSWER = re.compile(r"""\s*(?:\[\s*(?:[\[{(]|\]\s*\Z)|\{\s*["'])""")  # not a surface, but an answer in a string
_MARKS = " \t\r*_`\"'“”‘’「」『』"


class PairReading(NamedTuple):
    """Pairs in their order, the number of items that are not pairs, and whether the answer says that there are no
    entities.
    """

    pairs: list[Pair]
    unread: int
    empty: bool = False


class PairReader:
    """Find the pairs in decoded values.

    Args:
        categories: the known ones; empty = none are known.
        sentence: the sentence that was asked about; empty = unknown.
    """

    def __init__(self, categories: Collection[str] = (), sentence: str = "") -> None:
        self.categories, self.sentence = categories, sentence

    def read(self, value: Any) -> PairReading:
        """Read the pairs of a value."""
        pairs, unread = self._any(value, "", 0)
        return PairReading(_plain(pairs), unread, not pairs and says_nothing(value))

    def read_rows(self, values: list[Any]) -> PairReading:
        """Read adjacent values, such as JSON lines or tool calls."""
        pairs, unread = self._list(values, "", 0, row=False)
        return PairReading(_plain(pairs), unread, not pairs and all(map(says_nothing, values)))

    # Distinguishing surface and category:

    def is_category(self, name: str) -> bool:
        """Whether a name is one of the known categories or, if none are known, looks like one."""
        if self.categories:
            return name in self.categories
        return looks_like_category(name)

    def is_pair(self, surface: str, category: str) -> bool:
        """Whether it is certain that these are a surface and its category, in this order."""
        if self.is_category(category) != self.is_category(surface):
            return self.is_category(category)
        return bool(self.sentence) and surface in self.sentence and category not in self.sentence

    def ordered(self, first: str, second: str) -> Pair | None:
        """Return the pair of two names in its certain order; None if neither is certain."""
        if self.is_pair(first, second):
            return first, second
        return (second, first) if self.is_pair(second, first) else None

    def is_swapped(self, pairs: Sequence[Pair]) -> bool:
        """Whether all of these certainly have the category first."""
        known, text = self.categories, self.sentence
        if not pairs or not (known or text):
            return False
        first, second = pairs[0]
        if (second in known or first not in known) if known else (first in text or second not in text):
            return False
        if known:
            return all(a in known and b not in known for a, b in pairs)
        return all(a not in text and b in text for a, b in pairs)

    # Values; `row` = an item of a list, where the requested form has a pair:

    def _any(self, value: Any, group: str, depth: int, row: bool = False) -> tuple[list[Pair], int]:
        if depth > MAX_DEPTH:
            return [], 1
        if isinstance(value, Object):
            return self._object(value, group, depth)
        if isinstance(value, list):
            return self._list(value, group, depth, row)
        if isinstance(value, str) and not isinstance(value, NumberText):
            return self._text(value, group, depth)
        return [], 1

    def _text(self, text: str, group: str, depth: int) -> tuple[list[Pair], int]:
        """Read JSON in a string, a surface of the group, or `surface, category` in one string."""
        if _is_json(text) and (inner := decode_inner(text)) is not None:
            pairs, unread = self._any(inner, group, depth + MAX_DEPTH // _MAX_LAYERS)
            if pairs or says_nothing(inner):
                return pairs, unread
        if isinstance(text, CutText) or _ANSWER.match(text.replace("\\", "").lstrip('"')):
            return [], 1  # cut off, or an answer in more layers of strings than are read
        if group:
            return [(text, group)] if text else [], 0
        pair = cut_pair(text) or self.split_pair(text)
        return ([pair], 0) if pair else ([], 1)

    def split_pair(self, text: str) -> Pair | None:
        """Split `surface: category`, `surface (category)` and the like, if it is certain which is which."""
        text = text.strip(_MARKS)
        if len(text) > _LONGEST_PAIR:
            return None
        sides = _BETWEEN.split(text)
        if len(sides) != 2:
            found = _PARENTHESIS.fullmatch(text)
            sides = list(found.groups()) if found else []
        if len(sides) != 2 or not all(sides):
            return None
        return self.ordered(sides[0].strip(_MARKS), sides[1].strip(_MARKS))

    def _list(self, items: list[Any], group: str, depth: int, row: bool) -> tuple[list[Pair], int]:
        if all(map(_is_leaf, items)):
            trusted = depth == 0 and not (self.categories or self.sentence)  # an answer without its outer brackets
            found = self._leaves(items, group, row, trusted)
            if found is not None:
                return found, 0
        elif not group and len(items) == 2 and type(items[0]) is str and not isinstance(items, CutList):
            labels = _strings(items[1])
            if labels and self.is_category(items[0]) and not any(map(self.is_category, labels)):
                return [(label, items[0]) for label in labels], 0
            if labels:
                return [(items[0], label) for label in labels], 0
        objects = [item for item in items if isinstance(item, Object)]
        if objects and (columns := self._columns(objects)):
            return columns, len(items) - len(objects)
        records = any(map(_is_record, objects))
        pairs: list[Pair] = []
        unread = 0
        for item in items:
            if records and isinstance(item, Object) and not _is_record(item):
                unread += 1  # beside entities in proper form: a remark, or the entity that breaks off
                continue
            found, bad = self._any(item, group, depth + 1, row=True)
            pairs += found
            unread += bad
        return pairs, unread

    def _leaves(self, items: list[Any], group: str, row: bool, trusted: bool) -> list[Pair] | None:
        """Return the pairs of a list without inner lists except offsets; None = each item must be read separately."""
        closed = not isinstance(items, CutList)
        texts = [item for item in items if isinstance(item, str) and not isinstance(item, CutText)]
        words = [text for text in texts if not isinstance(text, NumberText)]
        if group and not (row and len(words) == 2 and self.is_pair(*words)):
            if len(words) == 1 and len(items) > 1 and not all(map(_is_word, items)):  # one surface with its offsets
                return [(words[0], group)] if closed and words[0] else []
            return [(text, group) for text in texts if text]
        if words and all(map(cut_pair, words)) and (len(words) > 1 or closed):
            return None  # each string is a pair of its own
        if not closed:
            return [] if words else None
        return self._flat(texts, words, row, trusted) if words else None

    def _flat(self, texts: list[str], words: list[str], row: bool, trusted: bool) -> list[Pair] | None:
        """Read `[surface, category]`, perhaps with scores, offsets or a remark; or many without inner brackets."""
        if len(words) == 1:
            return [(texts[0], texts[1])] if len(texts) == 2 and words[0] == texts[1] else None
        if len(words) == 2:
            first, second = words
            if self.is_swapped([(first, second)]):
                return [(second, first)]
            known = self.is_pair(first, second) and (not self.categories or self.is_category(second))
            return [(first, second)] if row or trusted or known else None
        if len(words) == 3:
            first, second, third = words
            orders = ((first, second), (second, third), (second, first), (first, third))
            pair = next((pair for pair in orders if self.is_pair(*pair)), (first, second) if row else None)
            return [pair] if pair else None
        if len(words) % 2 == 0 and len(texts) == len(words):
            pairs = list(zip(words[::2], words[1::2], strict=True))
            if self.is_swapped(pairs):
                return [(second, first) for first, second in pairs]
            return pairs if trusted or all(self.is_pair(*pair) for pair in pairs) else None
        return None

    def _columns(self, objects: list[Object]) -> list[Pair] | None:
        """Read entities under two unknown keys, if the known categories show which key is which."""
        keys = [key for key, _ in objects[0]]
        if len(keys) != 2 or not self.categories or any(map(is_special, keys)):
            return None
        rows = [item for item in objects if not isinstance(item, CutObject)]
        if not all([key for key, _ in row] == keys and all(_is_word(text) for _, text in row) for row in rows):
            return None
        pairs = [(row[0][1], row[1][1]) for row in rows]
        if not all(map(self.is_category, (category for _, category in pairs))):
            pairs = [(second, first) for first, second in pairs]
        certain = all(self.is_category(category) and self.is_pair(surface, category) for surface, category in pairs)
        return pairs if certain else None

    # Objects:

    def _object(self, value: Object, group: str, depth: int) -> tuple[list[Pair], int]:
        call = next((item for key, item in value if _is_call(key, item)), None)
        if call is not None:
            return self._any(call, group, depth + 1)
        entity = self._entity(value, group)
        loose, found = (
            self._loose(value) if entity is None and (not group or self._may_be_category(group)) else ([], [])
        )
        entity = found or entity
        if entity is not None:
            return ([], 1) if isinstance(value, CutObject) else (entity, 0)
        pairs: list[Pair] = []
        unread = 0
        single: list[Pair] = []  # key and string
        wrapped = any(_is_container(item) and normal_key(key) in WRAPPERS for key, item in value)
        for key, item in value:
            if key in loose:
                unread += 1
                continue
            special = not isinstance(key, str) or (is_special(key) and key not in self.categories)
            if _is_container(item):
                wrapper = special and not (_is_placed(item) and normal_key(key) not in WRAPPERS)
                found, bad = self._any(item, group, depth + 1) if wrapper else self._under(key, item, depth)
                pairs += found
                unread += bad if not says_nothing(item) else 0
            elif _is_word(item) and not special and not wrapped and item.casefold() not in NOTHING:
                single.append((key, item))
        found, bad = self._single(single, bool(pairs), not isinstance(value, CutObject))
        nothing = not pairs and not found and not says_nothing(value)
        return pairs + found, max(unread + bad, int(nothing))

    def _entity(self, value: Object, group: str) -> list[Pair] | None:
        """Return the entity that an object is, once for each of its categories; None if it is not an entity."""
        fields = {normal_key(key): item for key, item in value}
        label, surface = self._best(fields, CATEGORY_KEYS), self._best(fields, SURFACE_KEYS)
        if surface is None or (_is_word(fields[surface]) and _ANSWER.match(fields[surface])):
            return None
        if label is None and not group:
            label = next((key for key in EITHER_KEYS if _is_word(fields.get(key))), None)
            surface = self._best({key: item for key, item in fields.items() if key != label}, SURFACE_KEYS)
            if label is None or surface is None or not self.is_pair(str(fields[surface]), fields[label]):
                return None
        names = _strings(fields[label]) if label is not None else [group]
        return [(text, name) for text in _strings(fields[surface]) for name in names if text and name]

    def _loose(self, value: Object) -> tuple[list[str], list[Pair]]:
        """Find the keys of unknown meaning that may hold the surface of an object that names its category.

        Returns:
            These keys, and the entity, once for each of its categories, if it is certain from a single key.
        """
        fields = {normal_key(key): item for key, item in value}
        label = self._best(fields, CATEGORY_KEYS)
        names = [] if label is None else _strings(fields[label])
        unknown = [key for key, _ in value if isinstance(key, str) and not is_special(key)]
        if not names or not all(map(self._may_be_category, names)) or any(map(self._may_be_category, unknown)):
            return [], []
        keys = [key for key in unknown if key not in self.sentence and self._are_surfaces(fields[normal_key(key)])]
        if len(keys) != 1:
            return (keys if any(map(self.is_category, names)) else []), []
        pairs = [(text, name) for text in _strings(fields[normal_key(keys[0])]) for name in names]
        return keys, pairs if all(self.is_pair(*pair) for pair in pairs) else []

    def _may_be_category(self, name: str) -> bool:
        return name in self.categories or looks_like_category(name)

    def _are_surfaces(self, item: Any) -> bool:
        """Whether these are texts, and none of them is a category."""
        texts = _strings(item)
        return bool(texts) and all(_is_word(text) and not self.is_category(text) for text in texts)

    def _best(self, fields: dict[str, Any], ranks: dict[str, int]) -> str | None:
        """Return the preferred key among those with text: one whose category is known, then by rank."""
        found = [key for key in fields if key in ranks and _strings(fields[key])]
        if ranks is CATEGORY_KEYS:
            found = [key for key in found if not isinstance(fields[key], NumberText)]
            known = [key for key in found if any(name in self.categories for name in _strings(fields[key]))]
            found = known or found
        return min(found, key=ranks.__getitem__, default=None)

    def _under(self, key: str, item: Any, depth: int) -> tuple[list[Pair], int]:
        """Read the value of a key that is a category, or clearly a surface."""
        if isinstance(item, Object):
            if _is_placed(item):
                return [(surface, key) for surface, _ in item if isinstance(surface, str)], 0
            fields = {normal_key(name): inner for name, inner in item}
            label = self._best(fields, CATEGORY_KEYS)
            if label is not None and key in self.sentence and self._best(fields, SURFACE_KEYS) is None:
                return (
                    ([(key, name) for name in _strings(fields[label])], 0)
                    if not isinstance(item, CutObject)
                    else ([], 1)
                )
        words = [] if isinstance(item, (CutList, CutText)) else _strings(item)
        if words and self._groups_by_surface([(key, word) for word in words]):
            return [(key, word) for word in words], 0
        return self._any(item, key, depth + 1)

    def _groups_by_surface(self, entries: list[Pair]) -> bool:
        """Whether keys clearly are surfaces; never if the sentence does not contain them."""
        in_text = not self.sentence or all(key in self.sentence for key, _ in entries)
        return in_text and all(self.is_pair(*entry) for entry in entries)

    def _single(self, entries: list[Pair], grouped: bool, closed: bool) -> tuple[list[Pair], int]:
        """Read strings under keys: surfaces of a category, or the category of a surface."""
        if not entries:
            return [], 0
        if not grouped and (closed or self.sentence) and self._groups_by_surface(entries):
            return entries, 0
        certain = grouped or (closed and all(self.is_pair(text, key) for key, text in entries))
        kept = [(key, text) for key, text in entries if certain or (self.is_pair(text, key) and self.is_category(key))]
        return [(part, key) for key, text in kept for part in self.parts(text)], len(entries) - len(kept)

    def parts(self, text: str) -> list[str]:
        """Split several surfaces in one string, if the sentence confirms it."""
        if not self.sentence:
            return [part for part in text.split("、") if part]
        parts = [part for part in _LISTED.split(text) if part]
        apart = len(parts) > 1 and text not in self.sentence and all(part in self.sentence for part in parts)
        return parts if apart else [text]


def _plain(pairs: list[Pair]) -> list[Pair]:
    """Convert numbers that are surfaces or categories to plain strings."""
    return [(str(surface), str(category)) for surface, category in pairs]


def decode_inner(text: str) -> Any:
    """Decode JSON inside a string, even if it breaks off; None if there is none."""
    if not isinstance(text, CutText):
        try:
            return decode(text)
        except (ValueError, RecursionError):
            pass
    start = find_start(text, 0)
    try:
        return scan(text, start)[0] if start >= 0 else None
    except RecursionError:
        return None


def says_nothing(value: Any) -> bool:
    """Whether a complete value says that there are no entities: `[]`, `{}`, `{"entities": []}`, `{"人名": null}`."""
    if isinstance(value, (CutList, CutObject, CutText)):
        return False
    if isinstance(value, Object):
        calls = [item for key, item in value if _is_call(key, item)]
        items = calls or [item for key, item in value if normal_key(key) not in REMARKS]
        return not value or (bool(items) and all(item is None or says_nothing(item) for item in items))
    if isinstance(value, str):
        inner = decode_inner(value) if _is_json(value) else None
        return says_nothing(inner) if inner is not None else value.strip().casefold() in NOTHING
    return isinstance(value, list) and all(isinstance(item, list) and says_nothing(item) for item in value)


def cut_pair(text: str) -> Pair | None:
    """Split `surface, category`, also as `('surface', 'category')`."""
    parts = _COMMAS.split(text.strip().strip("()（）"))
    if len(parts) != 2 or not all(parts):
        return None
    surface, category = (part.strip().strip("\"'“”‘’") for part in parts)
    return surface, category


def _strings(value: Any) -> list[str]:
    """Return a string or number as a list, or the items of a list of only these; otherwise an empty list."""
    if isinstance(value, CutText):
        return []
    if isinstance(value, str):
        return [value]
    if isinstance(value, Object) or not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        return []
    return [item for item in value if not isinstance(item, CutText)]


def _is_leaf(item: Any) -> bool:
    return not isinstance(item, list) or _is_offsets(item)


def _is_offsets(item: Any) -> bool:
    """Whether a value is a number, or lists of only numbers."""
    if isinstance(item, list) and not isinstance(item, Object):
        return bool(item) and all(map(_is_offsets, item))
    return isinstance(item, NumberText)


def _is_placed(item: Any) -> bool:
    """Whether an object maps surfaces to their offsets or scores, as in CLUENER: `{"王芳": [[0, 1]]}`."""
    return isinstance(item, Object) and bool(item) and all(_is_offsets(place) for _, place in item)


def _is_word(item: Any) -> bool:
    return isinstance(item, str) and not isinstance(item, (NumberText, CutText))


def _is_json(text: str) -> bool:
    return text.lstrip()[:1] in ("[", "{", '"')


def _is_container(item: Any) -> bool:
    return isinstance(item, list) or (isinstance(item, str) and _is_json(item))


def _is_call(key: Any, item: Any) -> bool:
    """Whether this entry of an object holds the arguments of a tool call."""
    name = normal_key(key)
    return (name in CALL_KEYS and _is_container(item)) or (name == "input" and isinstance(item, Object))


def _is_record(value: Object) -> bool:
    names = {normal_key(key) for key, _ in value}
    return not names.isdisjoint(SURFACE_KEYS) and not names.isdisjoint(CATEGORY_KEYS)
