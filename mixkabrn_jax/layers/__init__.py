"""Flax modules: they own parameters and call ops, nothing else."""
