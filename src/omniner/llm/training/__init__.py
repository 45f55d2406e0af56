"""Training of a causal model on packs: many sentences behind one copy of their common prompt."""
