"""Trains a byte-pair tokenizer: python -m experiments.tokenize --source=text --path=my_texts/ --out=tokenizer.json"""

import sys

if __name__ != "tokenize":
    from experiments import command_line, tokenizer
else:
    # A script of this folder was run by its path, so that Python looks here first for its own module of this name.
    here = sys.path.pop(0)
    del sys.modules["tokenize"]
    import tokenize  # noqa: F401

    sys.path.insert(0, here)

if __name__ == "__main__":
    command_line.run(tokenizer.main)
