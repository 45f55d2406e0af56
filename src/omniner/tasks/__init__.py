"""The tasks that `task=` chooses: a module per task, with its steps in order, and `prompting` and `trials` for some."""
