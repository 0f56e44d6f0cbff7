"""Loss, optimizer, state, step, checkpoint, writer and the training loop."""
