"""Corpora: file formats, categories, splits, votes, statistics."""
