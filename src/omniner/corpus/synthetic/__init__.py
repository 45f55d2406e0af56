"""The corpus that comes with the package: invented Chinese social-media posts (`data=sample`).

`generate(size, seed)` gives sentences with exact gold mentions of all 90 official categories, so that every part of
the program can be tried without a file. Words and sentence patterns live in `topics/*.txt` (see `grammar`), the
making of posts in `generator`. All text was written for this package; brands, works and people are invented.
"""

from omniner.corpus.synthetic.generator import generate

__all__ = ["generate"]
