"""What a trained model is worth: scores, tasks, and the checkers that say whether an answer is right."""
