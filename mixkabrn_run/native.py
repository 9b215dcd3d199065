"""runtime.c behind the same functions as `model.Model`: built by the machine's C compiler on first use."""

import copy
import ctypes
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from mixkabrn_run.adapters import Adapter

SOURCE = Path(__file__).parent / "runtime.c"
FLAGS = ("-O3", "-std=c99", "-ffp-contract=off", "-shared", "-fPIC")
THREADS = ("-pthread", "-DMK_THREADS")


class Unavailable(RuntimeError):
    """There is no compiler, or it does not build."""


def library() -> ctypes.CDLL:
    """The compiled runtime, out of the user's cache where it is there. Raises: `Unavailable`."""
    source = SOURCE.read_bytes()
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mixkabrn_run"
    path = cache / f"runtime-{hashlib.sha256(source + repr(FLAGS + THREADS).encode()).hexdigest()[:16]}.so"
    if not path.exists():
        try:
            _build(path)
        except OSError as error:
            raise Unavailable(f"the compiled runtime cannot be kept in {cache}: {error}") from None
    try:
        found = ctypes.CDLL(str(path))
    except OSError as error:
        raise Unavailable(f"{path} cannot be loaded: {error}") from None
    pointer, size, text = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p
    for name, result, *arguments in (
        ("mk_load", pointer, text, size, text, ctypes.c_int, text),
        ("mk_free", None, pointer),
        ("mk_adapter", pointer, pointer, text, size, ctypes.c_int, text),
        ("mk_drop", None, pointer),
        ("mk_adapt", ctypes.c_int, pointer, pointer, ctypes.c_float),
        ("mk_kernels", text, pointer),
        ("mk_vocab_size", size, pointer),
        ("mk_new", pointer, pointer, size),
        ("mk_end", None, pointer),
        ("mk_threads", size, pointer, size),
        ("mk_step", ctypes.c_int, pointer, ctypes.c_int64),
        ("mk_logits", ctypes.POINTER(ctypes.c_float), pointer),
        ("mk_state", pointer, pointer),
        ("mk_state_bytes", size, pointer),
    ):
        function = getattr(found, name)
        function.restype, function.argtypes = result, arguments
    return found


def _build(path):
    compiler = os.environ.get("CC") or next(filter(shutil.which, ("cc", "gcc", "clang")), None)
    if compiler is None:
        raise Unavailable("there is no C compiler (cc, gcc, clang): the same model runs in NumPy, slower")
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:  # several processes may build at once
        built = Path(folder) / path.name
        for threads in (THREADS, ()):  # not every machine has POSIX threads
            command = [*compiler.split(), *FLAGS, *threads, "-o", str(built), str(SOURCE), "-lm"]
            done = subprocess.run(command, capture_output=True, text=True)
            if not done.returncode:
                break
        if done.returncode:
            raise Unavailable(f"{compiler} does not build {SOURCE.name}: {done.stderr.strip().splitlines()[-1:]}")
        built.replace(path)


class _Owned:
    """What C has allocated, until nothing in Python needs it any more."""

    def __init__(self, pointer: int, free):
        self.pointer, self._free = pointer, free

    def __del__(self):
        self._free(self.pointer)


class NativeModel:
    """As `model.Model`."""

    def __init__(self, content: bytes, config: dict, processor: str | None = None, threads: int = 1):
        """
        Args:
            content: of the model's file, whose hash `file.parse` has checked; config: of the model, from it.
            processor: whose inner loops to run, "plain", "ssse3" or "avx2"; None for this one.
            threads: that share a step.
        Raises: `Unavailable`; ValueError for a file that cannot be read.
        """
        self._library = library()
        load = self._library.mk_load, content, len(content), processor and processor.encode(), 0
        self._model = self._owned(self._library.mk_free, *load)
        self._adapters = []
        self.processor = self._library.mk_kernels(self._model.pointer).decode()
        self.vocab_size = self._library.mk_vocab_size(self._model.pointer)
        self.config, self.is_retention, self.threads = config, config["mixer"] == "retention", threads

    def _owned(self, free, make, *arguments):
        error = ctypes.create_string_buffer(256)
        pointer = make(*arguments, error)
        if not pointer:
            raise ValueError(error.value.decode(errors="replace"))
        return _Owned(pointer, free)

    def adapted(self, adapters: Iterable[tuple[Adapter, float]]) -> "NativeModel":
        """As `model.Model.adapted`. Raises: ValueError for an adapter of another model."""
        model, library = copy.copy(self), self._library
        model._adapters = [
            (
                self._owned(
                    library.mk_drop, library.mk_adapter, self._model.pointer, adapter.content, len(adapter.content), 0
                ),
                weight,
            )
            for adapter, weight in adapters
        ]
        return model

    def session(self, max_length: int) -> "NativeSession":
        """An empty one; an attention keeps so many positions."""
        return NativeSession(self, max_length)


class NativeSession:
    """What one conversation has in memory; as `model.Session`."""

    def __init__(self, model: NativeModel, max_length: int):
        self.model, self._library, self.max_length = model, model._library, max_length
        self._session = self._library.mk_new(model._model.pointer, max_length)
        if not self._session:
            raise MemoryError("there is not enough memory for the model's state")
        for adapter, weight in model._adapters:
            if not self._library.mk_adapt(self._session, adapter.pointer, weight):
                raise MemoryError("there is not enough memory for an adapter")
        self._library.mk_threads(self._session, model.threads)
        self._head, self.layers = self._memory(model.config)
        self.logits = np.ctypeslib.as_array(self._library.mk_logits(self._session), (model.vocab_size,))

    def step(self, token: int) -> np.ndarray:
        """Reads a token: logits of the next one `[W]`, which the next step overwrites."""
        if not self._library.mk_step(self._session, int(token)):
            raise ValueError(f"token {token}: there are {self.model.vocab_size}, and {self.max_length} positions")
        return self.logits

    @property
    def position(self) -> int:
        """Tokens that it has read."""
        return int(self._head[0])

    @position.setter
    def position(self, value):
        self._head[0] = value

    @property
    def previous(self) -> np.ndarray:
        """As `model.Session.previous`."""
        return self._head[1:]

    def _memory(self, config):
        """The state's arrays where C has them: (position and earlier tokens, those of each layer)."""
        num_bytes = self._library.mk_state_bytes(self._session)
        pointer = ctypes.cast(self._library.mk_state(self._session), ctypes.POINTER(ctypes.c_uint8))
        memory, start = np.ctypeslib.as_array(pointer, (num_bytes,)), 0

        def take(dtype, *shape):
            nonlocal start
            size = int(np.prod(shape)) * np.dtype(dtype).itemsize
            start += size
            return memory[start - size : start].view(dtype).reshape(shape)

        head, layers = take(np.int64, config.get("conv_size", 1)), []
        H, K, V = (config[key] for key in ("num_heads", "key_width", "value_width"))
        for _ in range(config["num_layers"]):
            if config["mixer"] == "retention":
                layers.append((take(np.float64, H), take(np.float32, H, K, V)))
                start += H * K * V % 2 * 4  # the next layer's doubles are aligned
            else:
                layers.append((take(np.float32, self.max_length, H, K), take(np.float32, self.max_length, H, V)))
        return head, layers

    def __del__(self):
        if getattr(self, "_session", None):
            self._library.mk_end(self._session)
