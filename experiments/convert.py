"""Rewrites an old run's config.json with the current fields: python -m experiments.convert --workdir=runs/old

Fields of a config have moved into sections. The run's config.json is written anew with the new names, and its values,
checkpoints and metrics stay as they are; the old file is kept as config.json.old. A config that has the new names
already is left alone.
"""

import json
from pathlib import Path

from absl import flags

from experiments import command_line

_WORKDIR = flags.DEFINE_string("workdir", None, "workdir of a run with a config of before")
command_line.require("workdir", "runs/old")


def main():
    # Only here, so that a wrong flag is answered at once.
    from mixkabrn_jax.runs import moved
    from mixkabrn_jax.runs.workdir import write_atomically

    with command_line.user_errors():
        path = Path(_WORKDIR.value) / "config.json"
        if not path.is_file():
            raise FileNotFoundError(f"--workdir={_WORKDIR.value} holds no config.json")
        old = path.read_text()
        try:
            config = json.loads(old)
        except json.JSONDecodeError as error:
            raise ValueError(f"{path} is not JSON ({error})") from error
        new = moved.nested(config)
        if new == config:
            print(f"{path} has the names of today already")
            return 0
        write_atomically(path.with_name("config.json.old"), old)
        write_atomically(path, json.dumps(new, indent=2) + "\n")
    print(f"{path} has the names of today; the old one is config.json.old")
    return 0


if __name__ == "__main__":
    command_line.run(main)
