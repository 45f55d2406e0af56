"""Checkpoints whose code lives with their weights, in the layout of a model that transformers knows itself."""
