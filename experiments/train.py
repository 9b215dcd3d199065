"""Trains a language model: python -m experiments.train --config=configs/lm.py:tiny --workdir=runs/tiny

The same command again goes on where the last one stopped. Any field of the config can be set on the command line, as in
--config.model.ffn=mlp; the README's map says where each is declared.
"""

import sys
from pathlib import Path

from absl import flags
from ml_collections import config_flags

from experiments import command_line

_CONFIG = config_flags.DEFINE_config_file("config", help_string="config file, with a size after a colon")
_WORKDIR = flags.DEFINE_string("workdir", None, "directory of the run")
flags.mark_flags_as_required(["config", "workdir"])


def main():
    with command_line.user_errors():
        config = _CONFIG.value.to_dict()
        # Imported once the flags are read, so that a wrong one is answered at once.
        from mixkabrn_jax.training.checkpoint import DoesNotFitError
        from mixkabrn_jax.training.loop import Run

        run = Run(config, Path(_WORKDIR.value))
    try:
        return run.train()
    except (OSError, FloatingPointError, DoesNotFitError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    command_line.run(main)
