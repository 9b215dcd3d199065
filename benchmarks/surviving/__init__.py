"""What a run has to survive: kills, and damage to its checkpoints."""
