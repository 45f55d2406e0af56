"""Statistics of a corpus: counts, surfaces, repeats, leaks and oddities, as arrays over all sentences and mentions."""
