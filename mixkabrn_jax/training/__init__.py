"""From batches to a trained model: loss, optimiser, step, loop, checkpoints, metrics."""
