"""What a model is asked: each task is a function of a scorer, documents and options that returns figures."""
