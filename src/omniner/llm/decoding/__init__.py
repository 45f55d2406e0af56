"""Answers of a model in this process (`decoding.engine=hf`).

`hf_engine` lets a model answer sentences. `decoder` generates many answers at a time over a `prefix_cache`; a
`constraint` keeps them in form, by the `automaton` of a sentence.
"""
