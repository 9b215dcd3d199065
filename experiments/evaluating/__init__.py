"""What experiments.evaluate is made of: the documents that a task is asked of, and the table for people."""
