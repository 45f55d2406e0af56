"""Taggers that mark characters: an encoder or a BiLSTM under a softmax, CRF or span head."""
