"""How every entry point starts: flags are read, and a user's mistake ends in one line instead of a traceback."""

import logging
import os
import platform
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from absl import app, flags


def run(main: Callable[[], int | None]) -> None:
    """Reads the flags and exits with what `main()` returns."""

    def checked(argv):
        if len(argv) > 1:
            sys.exit(f"error: {argv[1]!r} is not a flag: write --name=value")
        keep_compiled_programs()
        # JAX comes with it: only once the flags are read, so that a wrong one is answered at once.
        from mixkabrn_jax import host

        host.keep_freed_memory()
        keep_to_our_sentences()
        try:
            sys.exit(main())
        except KeyboardInterrupt:
            sys.exit(130)

    app.run(checked, flags_parser=_parse)


@contextmanager
def user_errors() -> Iterator[None]:
    """Around the part of a program that checks what it was given: its errors are sentences, so print just those."""
    try:
        yield
    except (TypeError, ValueError, OSError) as error:
        sys.exit(f"error: {_one_line(error)}")


def keep_to_our_sentences() -> None:
    """What we warn of is seen, and what our libraries tell of themselves is not."""
    logging.getLogger().setLevel(logging.WARNING)  # absl lowers it to INFO
    # Orbax reports every file it touches, and each of its threads a full disk, before our sentence does.
    logging.getLogger("absl").setLevel(logging.CRITICAL)


def keep_compiled_programs() -> Path:
    """Keeps what XLA compiles from one process to the next: a run that goes on starts in seconds.

    In JAX's own `JAX_COMPILATION_CACHE_DIR` where that is set, else in the user's cache folder. Programs for a CPU are
    made for the very processor, so every machine has a folder of its own. It may be deleted at any time.

    Returns: the folder. Call it before JAX is imported.
    """
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    default = home / "mixkabrn_jax" / "compiled" / (platform.node() or "machine")
    return Path(os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(default)))


def _parse(argv):
    try:
        return flags.FLAGS(argv)
    except flags.Error as error:
        sys.exit(f"error: {_one_line(error)}")
    except OSError as error:  # of a config file that is not there, once a field of it is set
        sys.exit(f"error: {_one_line(error)}: is there such a file as --config names?")
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        # ml_collections found no such field, and quotes one name of its path, or none.
        overrides = [argument for argument in argv if argument.startswith("--config.")]
        unknown = [argument for argument in overrides if _quotes_part_of(argument, _one_line(error))] or overrides
        sys.exit(f"error: {' '.join(unknown)}: the config file declares no such field ({_one_line(error)})")


def _quotes_part_of(argument, message):
    path = argument.removeprefix("--").partition("=")[0]
    return any(f"'{name}'" in message or f'"{name}"' in message for name in path.split("."))


def _one_line(error):
    text = str(error.args[-1] if isinstance(error, KeyError) else error).replace("\\n", " ")
    if "Traceback" in text:  # of a config file that failed to load: its last line says why
        text = text.strip().splitlines()[-1]
    return " ".join(text.split())
