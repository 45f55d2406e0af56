"""The tasks that `task=` chooses: a module each, its steps in order, with its entry `TASK`."""
