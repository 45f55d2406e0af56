"""List the keys under which files store the same thing; no other module knows their spellings.

Of several keys in one object the first in the order of these tables is used. The form of the values is defined where
they are read: mentions in `regions`, records in `jsonl`, tables in `entity_table`.
"""

from __future__ import annotations

SURFACES = (
    *("text", "entity", "word", "surface", "span", "mention", "value", "name", "entity_text", "entity_name", "实体"),
)
"""Keys under which a mention has its surface."""
CATEGORIES = (
    *("category", "label", "type", "labels", "entity_type", "entity_label", "label_type", "tag", "class"),
    *("types", "entity_group", "类别", "类型"),
)
STARTS = (
    *("start", "start_offset", "start_idx", "start_pos", "start_char", "startIndex", "start_index", "startOffset"),
    *("start_position", "begin", "beginIndex", "begin_offset", "BeginOffset", "from", "开始", "起始", "开始位置"),
)
ENDS = (
    *("end", "end_offset", "end_idx", "end_pos", "end_char", "endIndex", "end_index", "endOffset", "EndOffset"),
    *("end_position", "stop", "to", "结束", "终止", "结束位置"),
)
OFFSETS = frozenset({*STARTS, *ENDS} - {"from", "to"})
"""Keys that only a mention has; `from` and `to` also occur in messages."""
LENGTHS = ("length", "len", "长度")
PAIRS = (
    *("char_span", "offset", "offsets", "pos", "position", "span", "index", "entity_index", "location", "spans"),
    *("positions", "char_offset", "char_offsets", "indices"),
)
"""Keys under which a mention has both offsets in one value."""
LISTS = ("entities", "ents", "spans", "entity_list", "entity_mentions", "mentions", "annotations", "annotation", "ner")
"""Keys under which a record lists its entities."""
TEXTS = ("text", "content", "originalText", "raw_text", "sentence", "data", "文本", "句子")
"""Keys under which a record has its text."""
