"""Prediction with any engine: the models to predict with, and the resumable file of predictions."""
