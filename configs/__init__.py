"""Experiment configs: data with no code path of their own."""
