"""Training, shared by all models: the fitting loop, callbacks, checkpoints, devices, batches."""
