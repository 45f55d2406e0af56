"""What a corpus holds: counts, surfaces, repeats, leaks and oddities, as arrays over all sentences and mentions."""
