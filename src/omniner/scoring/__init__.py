"""Precision, recall and F1, the sorting of errors (ERRTA), confidence intervals and comparisons. No torch."""
