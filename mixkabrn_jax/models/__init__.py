"""Stacks of blocks with a head."""
