"""What is said of corpora: statistics, splits, the filter."""
