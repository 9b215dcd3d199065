"""A run's workdir: which config, tokenizer and data it belongs to. No other experiment overwrites anything in it."""

import json
import re
import secrets
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from mixkabrn_jax.data import tokenizers
from mixkabrn_jax.locks import try_lock
from mixkabrn_jax.runs import moved
from mixkabrn_jax.runs.config import flatten

BOOKKEEPING = frozenset(
    {"log_every", "evaluate_every", "evaluate_windows", "checkpoint", "profile", "mesh"}
    | {"data.cache", "data.num_threads", "data.timeout_seconds"}
)
"""Fields and whole sections that a run may go on with other values of: batches and updates do not depend on them (on
`mesh` to rounding)."""
_TOKEN = "started.txt"
# Of a file system, of a sweep, and of a run that was killed when it had written nothing else.
_NOBODYS = {"lost+found", "log.txt", "config.json.partial"}
_OUTPUTS = {".log", ".out", ".err"}  # of schedulers and shells


def is_bookkeeping(field: str) -> bool:
    """Whether a field, by its dotted name, may change from one process of a run to the next."""
    return field in BOOKKEEPING or field.partition(".")[0] in BOOKKEEPING


def check(workdir: Path, config: Mapping, defaults: Mapping | None = None, *, extend: bool = False) -> None:
    """Makes sure that a new run may be begun here, or that this very config may go on; changes nothing.

    Args:
        defaults: of fields that the workdir's config may be too old for, by dotted names (`config.defaults`).
        extend: whether num_steps may be larger than it was.
    Raises: ValueError naming the fields in which the workdir's own config differs, `BOOKKEEPING` aside, or a
        `config.json` that cannot be read, or files that are not a run's; NotADirectoryError for a path that is a file.
    """
    if workdir.exists() and not workdir.is_dir():
        raise NotADirectoryError(f"{workdir} is a file: a directory is needed")
    if not (workdir / "config.json").exists():
        _require_empty(workdir)
        return
    changes = differences(workdir, config, defaults)
    there, mine = changes.get("num_steps", (0, 0))
    is_longer = isinstance(there, int) and isinstance(mine, int) and mine > there
    if extend and is_longer:
        del changes["num_steps"]
    differing = in_words({field: values for field, values in changes.items() if not is_bookkeeping(field)})
    if differing:
        hint = (
            ", or give --extend (extend=True) to train that one longer"
            if is_longer and not extend and len(differing) == 1
            else ""
        )
        raise ValueError(
            f"{workdir} holds a run of another config: {', '.join(differing)}; choose another workdir{hint}"
        )


def create(
    workdir: Path,
    config: Mapping,
    tokenizer: tokenizers.Tokenizer,
    data: Mapping[str, str],
    *,
    base: str = "",
    defaults: Mapping | None = None,
    extend: bool = False,
) -> list[str]:
    """Writes `config.json`, `tokenizer.json` and `data.json` where they are missing, and into the first what changed.

    Args:
        data: what identifies each part of the data, as `Corpus.fingerprints`.
        base: SHA-256 of the model that a run of adapters leaves as it is.
        defaults, extend: as for `check`.
    Returns: for each field that another process of this run had another value of, words such as "log_every 20 -> 10".
    Raises: as `check`; ValueError when the run here was trained on other data, as after an edit of the file at
        `config.data.path`.
    """
    check(workdir, config, defaults, extend=extend)
    workdir.mkdir(parents=True, exist_ok=True)
    contents = {
        "config.json": json.dumps(config, indent=2),
        "tokenizer.json": json.dumps(tokenizer.to_json()),
        "data.json": json.dumps(data, indent=2),
        **({"base.json": json.dumps({"sha256": base})} if base else {}),
    }
    for name, text in contents.items():
        if not (workdir / name).exists():
            write_atomically(workdir / name, text + "\n")
    require_data(workdir, load_data(workdir), data, "choose another workdir")
    if base:
        require_base(workdir, base, config["init_from"])
    changes = differences(workdir, config, defaults)
    if changes:
        write_atomically(workdir / "config.json", contents["config.json"] + "\n")
    return [f"{field} {there} -> {mine}" for field, (there, mine) in changes.items()]


def require_data(where: Path, there: Mapping[str, str], data: Mapping[str, str], otherwise: str) -> None:
    """Makes sure that these parts of the data are what they were when the run here was begun.

    Args:
        where: the run's workdir, or the file of its model.
        there: what it says of its data, as `load_data` gives it.
        data: as for `create`, or a part of it.
        otherwise: what else than to restore the data can be done, for the sentence.
    Raises: ValueError saying what differs.
    """
    changes = [_other(part, there.get(part, ""), here) for part, here in data.items() if here != there.get(part)]
    if changes:
        raise ValueError(
            f"{where} holds a run on other data: {', '.join(changes)}; restore the data, or the version of this "
            f"package that began the run, which may have split them otherwise, or {otherwise}"
        )


def require_base(workdir: Path, base: str, init_from: str) -> None:
    """Makes sure that a run's adapters are for this model. Raises: ValueError when they are not, FileNotFoundError."""
    there = load_base(workdir)
    if there != base:
        raise ValueError(
            f"{workdir} holds adapters for the model of SHA-256 {there[:12]}..., and config.init_from={init_from!r} is "
            f"{base[:12]}... now: restore that model, or choose another workdir"
        )


def load_base(workdir: Path) -> str:
    """SHA-256 of the model that a run's adapters are for. Raises: FileNotFoundError, ValueError when it is not JSON."""
    path = workdir / "base.json"
    if not path.is_file():
        raise FileNotFoundError(f"{workdir} holds no base.json, which says what model its adapters are for")
    return _read_json(path).get("sha256", "")


def _other(part, there, here):
    """`the train part has 90 tokens and had 100`, of two fingerprints; of a mixture the tokens of each source."""
    had, has = (
        " + ".join(f"{int(number):,}" for number in re.findall(r"(\d+) targets", text)) for text in (there, here)
    )
    if not there:
        return f"the {part} part, of which the run has no record"
    if had == has:
        return f"the {part} part has as many tokens as it had ({had}), but other ones"
    return f"the {part} part has {has} tokens and had {had}"


def _require_empty(workdir):
    strays = sorted(path.name for path in workdir.iterdir()) if workdir.exists() else []
    strays = [name for name in strays if not name.startswith(".") and name not in _NOBODYS]
    strays = [name for name in strays if Path(name).suffix not in _OUTPUTS]
    if strays:
        named = ", ".join(strays[:3]) + (f" and {len(strays) - 3} more" if len(strays) > 3 else "")
        raise ValueError(f"{workdir} has no config.json but holds {named}: choose another workdir, a new or empty one")


def differences(workdir: Path, config: Mapping, defaults: Mapping | None = None) -> dict[str, tuple]:
    """{field: (value there, value here)} of those that differ; None where a side has no such field.

    Args:
        defaults: as for `check`.
    Raises: as `load_config`.
    """
    here, there = flatten(json.loads(json.dumps(config))), (defaults or {}) | flatten(load_config(workdir))
    fields = [field for field in sorted(here.keys() | there.keys()) if here.get(field) != there.get(field)]
    return {field: (there.get(field), here.get(field)) for field in fields}


def in_words(changes: Mapping[str, tuple]) -> list[str]:
    """`config.seed=1 (there: 0)`, for each of the `differences`."""
    return [f"config.{field}={here!r} (there: {there!r})" for field, (there, here) in changes.items()]


def leave_token(workdir: Path) -> str:
    """Leaves a token in the workdir for `await_token` of other processes. Returns it."""
    token = secrets.token_hex(8)
    write_atomically(workdir / _TOKEN, token)
    return token


def await_token(workdir: Path, token: str, seconds: float = 60.0) -> None:
    """Waits until this process sees the token of another one: a network file system may show it late.

    Raises: FileNotFoundError when it does not in time, as in a copy of the workdir on another machine.
    """
    deadline = time.monotonic() + seconds
    while not (workdir / _TOKEN).is_file() or (workdir / _TOKEN).read_text() != token:
        if time.monotonic() > deadline:
            raise FileNotFoundError(
                f"{workdir} is not the directory of process 0, whose {_TOKEN} is not seen here after "
                f"{seconds:g} s: one on a file system that all processes share is needed"
            )
        time.sleep(0.1)


@contextmanager
def lock(workdir: Path) -> Iterator[None]:
    """Keeps other processes from training in a workdir; the lock ends with the process, however that ends.

    Raises: BlockingIOError when another process trains here.
    """
    with (workdir / "config.json").open("r+b") as file:  # for writing: network file systems lock no other
        if not try_lock(file):
            raise BlockingIOError(
                f"another process trains in {workdir}: wait for its end, or choose another; processes of one "
                "run are told of each other by --distributed"
            )
        yield


def load_config(workdir: Path) -> dict:
    """The config of the run in this workdir, with the names of today whatever it was written with.

    Raises: FileNotFoundError when there is none, ValueError when it is not JSON.
    """
    path = workdir / "config.json"
    if not path.is_file():
        found = "holds no config.json" if workdir.is_dir() else "does not exist"
        raise FileNotFoundError(f"{workdir} {found}: a directory that training wrote is needed")
    return moved.nested(_read_json(path))


def load_data(workdir: Path) -> dict[str, str]:
    """What identifies each part of the data that the run was begun on; {} of a workdir that does not say.

    Raises: ValueError when it is not JSON.
    """
    path = workdir / "data.json"
    return _read_json(path) if path.exists() else {}


def load_tokenizer(workdir: Path) -> tokenizers.Tokenizer | None:
    """The tokenizer of the run in this workdir; None before the run wrote one."""
    path = workdir / "tokenizer.json"
    if not path.exists():
        return None
    return tokenizers.from_json(_read_json(path))


def _read_json(path):
    try:
        contents = json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not JSON ({error}); remove the directory or restore the file") from error
    if not isinstance(contents, dict):
        raise ValueError(f"{path} does not hold an object but {contents!r}; remove the directory or restore the file")
    return contents


def write_atomically(path: Path, text: str) -> None:
    """Writes the whole file or leaves the old one: a killed process cannot leave half of it.

    Raises: OSError naming the file.
    """
    partial = path.with_name(path.name + ".partial")
    try:
        partial.write_text(text)
    except OSError as error:  # of a full disk: it names no file
        raise OSError(error.errno, error.strerror, str(path)) from error
    partial.replace(path)
