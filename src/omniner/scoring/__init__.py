"""Precision, recall and F1, errors sorted by type (ERRTA), confidence intervals, comparisons. No torch."""
