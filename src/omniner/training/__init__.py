"""Training, shared by all models: the fitting loop, callbacks, checkpoints, shards, plans of batches."""
