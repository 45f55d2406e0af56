"""Runs beside each other: differences, their significance, seeds."""
