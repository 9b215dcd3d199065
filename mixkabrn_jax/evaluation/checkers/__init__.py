"""Whether an answer is right, as the field decides it: from text alone, without running or evaluating any of it."""
