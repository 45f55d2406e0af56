"""Converts checkpoints that rely on code published with their weights to a layout that transformers implements."""
