"""What `experiments.sweep` is made of: trials of a config's generators, processes that run them, tables of results."""
