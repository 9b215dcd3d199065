"""Runs that are killed and whose checkpoints are damaged, beside one that was left alone."""
