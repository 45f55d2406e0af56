"""From a run's errors to a better prompt: clusters, notes, a teacher's rules, prompt search."""
