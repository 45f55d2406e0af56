"""Training of a causal model on packs: many sentences behind one copy of their common prompt.

`generative_module` is the Lightning module and `generative_data` its data, in `packs`. `shared_prefix` runs a model on
a pack: with an `attention` back-end, which `attention_probe` chooses, and `fused_layers`. `optimizers` builds what
takes the steps, and `memory` counts beforehand what all of it needs.
"""
