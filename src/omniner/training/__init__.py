"""What every model that learns shares: the fitting, its callbacks, checkpoints, devices and data plans."""
