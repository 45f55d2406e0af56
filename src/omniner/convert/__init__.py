"""Convert checkpoints that need the code published with their weights to a layout that transformers implements."""
