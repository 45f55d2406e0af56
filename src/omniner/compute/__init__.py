"""Devices, precision and torch settings, for training and prediction."""
