"""Checkpoints whose code lives with their weights, in the layout of a model that transformers knows itself."""

from omniner.convert.weights import convert

__all__ = ["convert"]
