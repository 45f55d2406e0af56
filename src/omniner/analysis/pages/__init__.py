"""HTML pages, figures and tables for people: what they have in common, and the report of a run."""
