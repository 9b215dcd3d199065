"""What -h and --help print of an entry point: its docstring, its own flags and the fields of its config."""

import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from absl import flags

CONFIG = Path("configs", "lm.py")
"""The one config that declares every field, with what each is for."""
_FIELD = re.compile(r"config\.([\w.]+) = (?!ConfigDict\()(.+)")


def text(main: Callable) -> str:
    """The help of the entry point that this is the main function of."""
    own = own_flags(main)
    parts = [(sys.modules[main.__module__].__doc__ or "").strip()]
    parts.append("\n".join(["flags:", *(f"  {_usage(flag)}" for flag in own)]))
    if any(flag.name == "config" for flag in own):
        parts.append("\n".join([f"fields of the config, with the values of {CONFIG}:", *fields()]))
    return "\n\n".join(parts)


def own_flags(main: Callable) -> list[flags.Flag]:
    """The flags of the program, then those of its modules, but not those of absl and of other packages."""
    program = sys.argv[0] if main.__module__ == "__main__" else main.__module__  # as absl calls it
    defined = flags.FLAGS.flags_by_module_dict()
    modules = [program, *(module for module in defined if module.startswith("experiments.") and module != program)]
    return [flag for module in modules for flag in defined.get(module, ()) if not flag.name.startswith("config.")]


def fields() -> Iterator[str]:
    """`--config.num_steps=1500  # what it is for`, for each field that `CONFIG` assigns, read from its source."""
    for line in (Path(__file__).parents[1] / CONFIG).read_text().splitlines():
        if found := _FIELD.fullmatch(line.strip()):
            yield f"  --config.{found[1]}={found[2]}"


def _usage(flag):
    if flag.boolean:
        return f"--{flag.name}  {flag.help}"
    default = "..." if flag.default is None else flag.default
    return f"--{flag.name}={default}  {flag.help}"
