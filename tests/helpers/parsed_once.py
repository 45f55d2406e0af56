"""YAML of configurations, of which each text is parsed once: the parser is written in Python, and takes its time."""

from __future__ import annotations

import copy
from typing import Any

import yaml

_parse = yaml.load
_known: dict[str, Any] = {}


def load(stream: Any, Loader: Any) -> Any:  # noqa: N803  (as yaml calls it)
    """Do what `yaml.load` does; what OmegaConf has read before is copied, what is no YAML is parsed again."""
    if Loader.__name__ != "OmegaConfLoader" or not hasattr(stream, "read"):
        return _parse(stream, Loader)
    begin = stream.tell()
    text = stream.read()
    if text not in _known:
        stream.seek(begin)  # the error names the file
        _known[text] = _parse(stream, Loader)
    return copy.deepcopy(_known[text])
