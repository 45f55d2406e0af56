"""Stands in for torchaudio, which LLaMA-Factory imports at its start and text training never calls.

The published wheel needs CUDA libraries that a CPU build of torch does not bring.
"""

__version__ = "0"
