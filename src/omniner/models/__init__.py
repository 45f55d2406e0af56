"""Taggers: backbones, heads, the CRF, training, checkpoints, prediction."""
