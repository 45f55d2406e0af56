"""Causal language models as taggers: prompts, samples, shared-prefix training, decoding, servers.

What all of them need lies here: the prompt (`prompts`, with `examples` of train), its tokens (`chat_tokenizer`,
`samples`), and the model with its checkpoints (`language_model`), which is loaded (`loading`) or built
(`random_model`), and tuned as a whole or by adapters (`tuning`, `low_rank`), in 4 bits if wanted (`quantization`). The
rest is in three packages: `training` uses `decoding` to evaluate, `serving` is for models that other programs run.
"""
