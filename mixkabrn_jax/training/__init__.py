"""From batches to a trained model: loss, optimiser, step, loop, and what is told on the way."""
