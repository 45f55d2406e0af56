"""Answers of a model in this process (`decoding.engine=hf`), free or restricted to a format."""
