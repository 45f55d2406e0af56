"""Sequence taggers: an encoder or a BiLSTM over characters, with a softmax, CRF or span head."""
