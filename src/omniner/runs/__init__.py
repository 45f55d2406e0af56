"""The life cycle of runs: folders, what a task receives, child processes, sweeps."""
