"""The life of runs: their folders, what a task is given, child processes, sweeps."""
