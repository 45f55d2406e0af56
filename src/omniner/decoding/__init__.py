"""From weights to predictions: answers of a causal model, in process or from a server, free or guided."""
