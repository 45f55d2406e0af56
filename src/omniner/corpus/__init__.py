"""Corpora: their files, categories, splits."""
