"""Trees of arrays on disk, by orbax: several parts in one directory, each in a folder of its own."""

import contextlib
from collections.abc import Mapping
from pathlib import Path

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint.type_handlers import ArrayHandler, create_type_handler_registry


class ArrayFiles:
    """Writes parts in threads, and reads them. Of several processes each writes the arrays that it holds."""

    def __init__(self):
        self._open()

    def save(self, directory: Path, parts: Mapping[str, object]) -> None:
        """Starts to write the parts, trees by name, into a new directory; `wait` comes before the next call.

        The arrays may be donated once this returns: orbax has copied them from the device or, on a CPU, holds on to
        their memory, of which XLA then makes no further use.

        Raises: OSError, or the ValueError of tensorstore, which has no errors of its own.
        """
        arguments = ocp.args.Composite(**{name: ocp.args.PyTreeSave(part) for name, part in parts.items()})
        with self._closed_on_error():
            self._checkpointer.save(directory, args=arguments)

    def wait(self) -> None:
        """Returns once all processes have written their arrays. Raises: as `save`, once no thread writes any more."""
        with self._closed_on_error():
            self._checkpointer.wait_until_finished()
            self._handler.started.clear()

    def restore(self, directory: Path, abstract_parts: Mapping[str, object]) -> dict:
        """Returns the parts, with the shapes, dtypes and layout of the abstract ones."""
        restore = ocp.checkpoint_utils.construct_restore_args
        arguments = {name: ocp.args.PyTreeRestore(part, restore(part)) for name, part in abstract_parts.items()}
        restored = self._checkpointer.restore(directory, args=ocp.args.Composite(**arguments))
        return {name: restored[name] for name in abstract_parts}

    def close(self) -> None:
        """Ends the threads. Raises: as `wait`."""
        self._checkpointer.close()

    def _open(self):
        self._handler = _Arrays()
        registry = create_type_handler_registry((jax.Array, self._handler))
        trees = ocp.PyTreeCheckpointHandler(type_handler_registry=registry)
        handlers = ocp.handlers.DefaultCheckpointHandlerRegistry()
        for arguments in (ocp.args.PyTreeSave, ocp.args.PyTreeRestore):
            handlers.add(None, arguments, trees)
        self._checkpointer = ocp.AsyncCheckpointer(ocp.CompositeCheckpointHandler(handler_registry=handlers))

    @contextlib.contextmanager
    def _closed_on_error(self):
        """Orbax goes on at the first error of a part, with the threads of the others still at work: ends them first."""
        try:
            yield
        except (OSError, ValueError):
            for writing in self._handler.started:
                with contextlib.suppress(OSError, ValueError):
                    writing.result()
            with contextlib.suppress(OSError, ValueError):
                self._checkpointer.close()
            self._open()  # the old one would tell of the same failure again
            raise


class _Arrays(ArrayHandler):
    """Orbax's own, but for what a full disk needs.

    Orbax closes a part's event loop at the first write that fails, and each of tensorstore's writes that ends later
    prints a traceback of it. So all arrays of a part are one transaction, the only write there is to fail: orbax makes
    one where no bytes in flight are counted. And a part has no file of array_metadatas, which is written beside it.
    """

    def __init__(self):
        super().__init__(array_metadata_store=None)
        self.started = []
        """What is being written."""

    async def serialize(self, values, infos, args=None):
        infos = [info.replace(byte_limiter=None) for info in infos]
        writing = await super().serialize(values, infos, args)
        self.started += writing
        return writing


def describe(tree) -> dict[str, str]:
    """Dtype and shape of every leaf, by a name with dots."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="."): f"{leaf.dtype}{list(leaf.shape)}"
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def differences(there: Mapping[str, str], here: Mapping[str, str]) -> list[str]:
    """In words, what `describe` says of two trees that is not the same."""
    wrong = [f"{name} is missing" for name in here if name not in there]
    wrong += [f"{name} is there, but nothing here has that name" for name in there if name not in here]
    both = [name for name in here if name in there]
    return wrong + [f"{name} is {there[name]}, not {here[name]}" for name in both if there[name] != here[name]]
