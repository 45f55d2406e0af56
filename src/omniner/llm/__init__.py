"""Causal language models as taggers: prompt, samples, shared-prefix training, decoding, servers."""
