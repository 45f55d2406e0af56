"""Where and how a model computes, training or answering: devices, precision, settings of torch."""
