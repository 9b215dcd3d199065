"""Trains a language model: python -m experiments.train --config=configs/lm.py:tiny --workdir=runs/tiny"""

import sys
from pathlib import Path

from absl import app, flags, logging
from ml_collections import config_flags

_CONFIG = config_flags.DEFINE_config_file("config", help_string="config file, with a size after a colon")
_WORKDIR = flags.DEFINE_string("workdir", None, "directory of the run; an interrupted run in it goes on")


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments: {argv[1:]}")
    from mixkabrn_jax.training.loop import Run  # after the flags are read: wrong ones are answered at once

    logging.set_verbosity(logging.WARNING)  # orbax reports every file it writes
    try:
        run = Run(_CONFIG.value.to_dict(), Path(_WORKDIR.value))
    except (TypeError, ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    sys.exit(run.train())


if __name__ == "__main__":
    flags.mark_flags_as_required(["config", "workdir"])
    app.run(main)
