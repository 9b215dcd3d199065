"""From a run to one file that others open."""
