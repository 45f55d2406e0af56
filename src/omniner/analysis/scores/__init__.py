"""Scores: reading answers, precision, recall and F1, their intervals and tables."""
