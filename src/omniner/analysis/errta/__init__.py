"""ERRTA: every error sorted into a type, each with the gold and the prediction it is about."""
