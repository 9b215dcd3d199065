"""What a trained model is worth: bits per byte, likelihoods of answers, completions, and tasks made of these."""
