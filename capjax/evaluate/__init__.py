"""Caption a split, score it, and draw where the model looked."""
