"""Training for all models: the fitting loop, callbacks, checkpoints, sharding, batch plans."""
