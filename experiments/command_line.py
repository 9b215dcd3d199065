"""How every entry point starts: flags are read, and a user's mistake ends in one line instead of a traceback."""

import difflib
import logging
import os
import platform
import re
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from absl import app, flags
from absl import logging as absl_logging
from ml_collections import ConfigDict, config_flags

from experiments import usage

flags.disclaim_key_flags()  # what is defined here belongs to the entry point that asks for it


def run(main: Callable[[], int | None]) -> None:
    """Reads the flags and exits with what `main()` returns; with -h or --help, prints what it is for and ends."""

    def checked(_):
        # Of what the standard output has no letters for, question marks: a model's text may hold anything.
        if sys.stdout is not None:  # else it was closed from outside
            sys.stdout.reconfigure(errors="replace")
        sys.unraisablehook = _end_if_interrupted
        keep_compiled_programs()
        # JAX comes with it: only once the flags are read, so that a wrong one is answered at once.
        from mixkabrn_jax import host

        host.keep_freed_memory()
        keep_to_our_sentences()
        try:
            with _reader_may_leave():
                status = main()
            sys.exit(status)
        except KeyboardInterrupt:
            sys.exit(130)

    app.run(checked, flags_parser=lambda argv: parse(argv, main))


@contextmanager
def _reader_may_leave():
    """Around what prints: once whoever reads it has enough, as `| head` has, the program ends without a word."""
    try:
        yield
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:
        # Or Python would try once more, and say so, while it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(128 + 13)  # as of a program that SIGPIPE ended


def _end_if_interrupted(unraisable):
    """Ends the program at a Ctrl-C that came within a callback, as JAX has one for the garbage collector: Python
    prints such an exception and goes on.
    """
    if issubclass(unraisable.exc_type, KeyboardInterrupt):
        sys.stdout.flush()
        os._exit(130)
    sys.__unraisablehook__(unraisable)


def raise_interrupts() -> None:
    """From here on a Ctrl-C raises KeyboardInterrupt, for what is begun has to be ended in order; see `experiments`."""
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def define_config() -> flags.FlagHolder:
    """The flag --config of an entry point, which has to be given, and with it --config.x=value for each field."""
    holder = config_flags.DEFINE_config_file("config", help_string="config file, with a size after a colon")
    require("config", "configs/lm.py:tiny")
    return holder


def require(name: str, example: str) -> None:
    """A flag that is not given, or as nothing, is answered with an example of it and what it is."""
    message = f"--{name}={example} is needed: {flags.FLAGS[name].help}"
    flags.register_validator(name, bool, message)


def _end(sentence):
    sys.exit(f"error: {sentence}")


@contextmanager
def user_errors(section: str = "", answer: Callable[[str], None] = _end) -> Iterator[None]:
    """Around the part of a program that checks what it was given: its errors are sentences, so print just those.

    Args:
        section: of the config of which some fields are flags here, such as "config.data.": those are named so.
        answer: takes the sentence, where the program is to go on behind that part.
    """
    try:
        yield
    except BrokenPipeError:
        raise
    except (TypeError, ValueError, OSError, ImportError) as error:  # the last: of an extra that is not installed
        message = _one_line(error)
        answer(re.sub(rf"{re.escape(section)}(?:\w+\.)*(\w+)", _as_flag, message) if section else message)


def _as_flag(field):
    """What a field is called on the command line where it is a flag by itself."""
    return f"--{field[1]}" if field[1] in flags.FLAGS else field[0]


def keep_to_our_sentences() -> None:
    """What we warn of is seen, without absl's date and place, and what our libraries tell of themselves is not."""
    absl_logging.get_absl_handler().setFormatter(_Sentence())
    warnings.formatwarning = lambda message, *_, **__: f"warning: {message}\n"  # of other packages: not their line too
    logging.getLogger().setLevel(logging.WARNING)  # absl lowers it to INFO
    # Of a process that was killed while it kept a program, which is compiled anew.
    warnings.filterwarnings("ignore", "Error reading persistent compilation cache entry")
    # Orbax reports every file it touches, and each of its threads a full disk, before our sentence does.
    logging.getLogger("absl").setLevel(logging.CRITICAL)


class _Sentence(logging.Formatter):
    """`warning: ...`; information as it is, such as what the law says of a set."""

    def format(self, record):
        text = super().format(record)
        is_information = record.levelno < logging.WARNING or getattr(record, "is_information", False)
        return text if is_information else f"{record.levelname.lower()}: {text}"


def keep_compiled_programs() -> Path:
    """Keeps what XLA compiles from one process to the next: a run that goes on starts in seconds.

    In JAX's own `JAX_COMPILATION_CACHE_DIR` where that is set, else in the user's cache folder. Programs for a CPU are
    made for the very processor, so every machine has a folder of its own. It may be deleted at any time.

    Returns: the folder. Call it before JAX is imported.
    """
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    default = home / "mixkabrn_jax" / "compiled" / (platform.node() or "machine")
    return Path(os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(default)))


def parse(argv: list[str], main: Callable) -> list[str]:
    """Reads the flags of a command line; a wrong one ends the program with a sentence, and so does -h, with help."""
    if any(argument in ("-h", "-help", "--help") for argument in argv[1:]):
        sys.stdout.reconfigure(errors="replace")
        with _reader_may_leave():
            print(usage.text(main))
        sys.exit(0)
    config_file = _config_file(argv)
    path = config_file and config_file.partition(":")[0]
    if path is not None and not Path(path).is_file():
        sys.exit(f"error: --config={config_file}: there is no file {path!r}; configs/lm.py:tiny, for one, is there")
    try:
        rest = flags.FLAGS(argv)
    except flags.Error as error:
        sys.exit(f"error: {wrong_flag(error, flags.FLAGS, usage.own_flags(main))}")
    except Exception as error:  # whatever a config file raises; and ml_collections, of a field that is not there
        if path is None:
            raise
        sys.exit(f"error: {_wrong_config(error, config_file, path, argv)}")
    if path is not None and not isinstance(flags.FLAGS["config"].value, ConfigDict):
        sys.exit(f"error: --config={config_file}: get_config() of {path} returns no ConfigDict")
    if len(rest) > 1:
        sys.exit(f"error: {rest[1]!r} is not a flag: write --name=value")
    return rest


def wrong_flag(error: flags.Error, values: flags.FlagValues, own: Iterable[flags.Flag] = ()) -> str:
    """What absl found wrong with a command line, in a sentence that says what would be right.

    Args:
        values: with the flags that it was read by.
        own: flags of which one may have been meant.
    """
    if isinstance(error, flags.UnrecognizedFlagError):
        # Its value is the whole argument.
        return f"{error.flagvalue}: there is no such flag; {_meant(error.flagname, [flag.name for flag in own])}"
    found = re.fullmatch(r"flag --([\w.]+)=(.*?): (.*)", str(error), re.DOTALL)
    if found is None or found[1] not in values:
        return _one_line(error)
    name, value, reason = found.groups()
    parser = values[name].parser
    if "as a ConfigDict" in reason:
        inside = [field for field in _fields() if field.startswith(f"{name}.")]
        return f"--{name}={value}: it is a section of the config: set its fields, such as --{(inside or [name])[0]}"
    if isinstance(parser, flags.BooleanParser):
        return f"--{name}={value}: true or false is needed"
    if isinstance(parser, flags.FloatParser | flags.IntegerParser):
        wanted = parser.syntactic_help
        article = "" if wanted.startswith(("a ", "an ")) else f"{parser.number_article} "
        return f"--{name}={value}: {article}{wanted} is needed"
    return _one_line(error)


def _meant(name, names):
    """Which of the names a user may have meant."""
    short = {each.removeprefix("config."): each for each in names}  # what all begin with makes none alike
    near = difflib.get_close_matches(name.removeprefix("config."), short, n=1)
    return f"is --{short[near[0]]} meant?" if near else "--help lists those that there are"


def _fields():
    """`config.num_steps` and the other fields of a config."""
    return [line.strip().removeprefix("--").partition("=")[0] for line in usage.fields()]


def locate(error: BaseException, path: str) -> str | None:
    """`mine.py, line 7: ZeroDivisionError: division by zero`, of an error in a user's file; None of one elsewhere."""
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if Path(frame.filename).resolve() == Path(path).resolve()]
    if isinstance(error, SyntaxError) and not lines:
        return f"{error.filename}, line {error.lineno}: {type(error).__name__}: {error.msg}"
    return f"{path}, line {lines[-1]}: {type(error).__name__}: {_one_line(error)}" if lines else None


def _config_file(argv):
    """What follows --config= or --config in a command line, the last of them; None where the program has none."""
    if "config" not in flags.FLAGS:
        return None
    given = None
    for argument, following in zip(argv, [*argv[1:], None], strict=True):
        name, is_given, value = argument.partition("=")
        if name in ("--config", "-config"):
            given = value if is_given else following
    return given


def _wrong_config(error, config_file, path, argv):
    if isinstance(error, SyntaxError) and Path(path).suffix != ".py":
        return f"--config={config_file}: {path} is no Python file, as configs/lm.py is"
    if place := locate(error, path):
        return f"--config={config_file}: {place}"
    message = _one_line(error)
    if "get_config" in message:
        return f"--config={config_file}: {path} has no function get_config()"
    # ml_collections found no such field, and quotes one name of its path, or none.
    overrides = [argument for argument in argv if argument.startswith("--config.")]
    if not overrides:
        return f"--config={config_file}: {type(error).__name__}: {message}"
    unknown = [argument for argument in overrides if _quotes_part_of(argument, message)] or overrides
    meant = _meant(unknown[0].removeprefix("--").partition("=")[0], _fields())
    return f"{' '.join(unknown)}: the config file declares no such field; {meant}"


def _quotes_part_of(argument, message):
    path = argument.removeprefix("--").partition("=")[0]
    name = re.search(r"['\"](\w+)", message)  # the first: behind it may come one that was meant
    return name is not None and name[1] in path.split(".")


def _one_line(error):
    text = str(error.args[-1] if isinstance(error, KeyError) else error).replace("\\n", " ")
    text = re.sub(r"^'(\\'.*)'$", r"\1", text).replace("\\'", "'")  # quoted twice
    if "Traceback" in text:  # of a config file that failed to load: its last line says why
        text = text.strip().splitlines()[-1].removeprefix("ValueError: ")
    # absl puts before a sentence of ours the flags that it is about, with their values.
    text = re.sub(r"\s*flags? (?:--)?\w+=.*?: (?=--)", "; ", text).removeprefix("; ")
    return " ".join(text.split())
