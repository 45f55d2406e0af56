"""Training, as every model shares it: fitting, callbacks, checkpoints, devices, batches."""
