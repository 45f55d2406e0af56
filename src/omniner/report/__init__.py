"""What people look at: tables, figures and pages of runs, comparisons, corpora and annotators."""
