"""From sentences to tensors: tags, vocabularies, tokens aligned to characters, batches."""
