"""What a typed configuration must fulfil: values in their ranges, pairs that work together, files that are there.

In comes a typed `Config` (see `omniner.config`), out come one `UserError` with the key at fault, or nothing; `resolve`
settles the `auto` values that need neither data nor machine. Adding a knob means a field in `schema`, a value in
`conf/`, and a line here.
"""

from omniner.checks.names import resolve
from omniner.checks.pairs import check_pairs
from omniner.checks.values import CHOICES, CORPUS_FORMATS, check_values

__all__ = ["CHOICES", "CORPUS_FORMATS", "check_pairs", "check_values", "resolve"]
