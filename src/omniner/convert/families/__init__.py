"""Model families whose checkpoints are converted to the Llama layout, one file per family."""
