"""Results for people: tables, figures and pages of runs, comparisons, corpora and annotators."""
