"""From errors to better prompts: clusters, notes, questions to a teacher, the race of prompts."""
