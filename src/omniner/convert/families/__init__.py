"""Model families whose checkpoints can be converted to the Llama layout, one file per family."""
