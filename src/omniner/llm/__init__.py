"""Causal language models as taggers: prompts, samples, shared-prefix training, decoding, servers."""
