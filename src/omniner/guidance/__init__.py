"""Turn a run's errors into a better prompt: clusters, notes, a teacher's rules, prompt search."""
