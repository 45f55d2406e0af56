"""The tasks that `task=` chooses: a module per task, its steps in order; `prompting` and `trials` are parts of some."""
