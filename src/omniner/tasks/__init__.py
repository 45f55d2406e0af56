"""The tasks that `task=` chooses: one module per task with its steps in order and its entry `TASK`."""
