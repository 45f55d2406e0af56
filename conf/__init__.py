"""The shipped configuration: every knob, its unit and its reason."""
