"""What a module owns: `nnx.Param`, and a second kind of leaf, `Buffer`; and how both are laid out over devices.

A matrix carries the letters of its trailing dimensions as metadata, `nnx.Param(value, letters="DF")`, and
`mixkabrn_jax.sharding` says what they mean. A variable without letters is replicated on every device. Where several
matrices lie side by side in it, of heads or of basis functions, it carries how many `rows` or `columns` each has.
"""

import jax
from flax import nnx

from mixkabrn_jax import sharding

_REPLICATED = sharding.spec("")


class Buffer(nnx.Variable):
    """Saved and sharded with the model, never differentiated and unseen by the optimiser (router bias, knots)."""


class Frozen(Buffer):
    """Read from the file of a model and never changed: no run saves it again."""


def split(module: nnx.Module):
    """(graph, params, buffers): gradients and the optimiser see params only."""
    return nnx.split(module, nnx.Param, ...)


def merge(graph, params, buffers):
    """The inverse of `split`."""
    return nnx.merge(graph, params, buffers)


def saved(buffers):
    """Those that a run saves: all but frozen ones."""
    return nnx.filter_state(buffers, nnx.Not(Frozen))


def with_frozen(buffers, like):
    """The inverse of `saved`, with the frozen ones of `like`."""
    return nnx.merge_state(buffers, nnx.filter_state(like, Frozen))


def stacked(module: nnx.Module, letter: str) -> nnx.Module:
    """The module, whose variables all have one more leading dimension of this letter."""
    for _, variable in nnx.iter_graph(module):
        if _is_variable(variable):
            variable.set_metadata(letters=letter + (letters(variable) or "_" * (variable.ndim - 1)))
    return module


def map_matrices(function, tree):
    """A tree with each variable's matrices `[..., D, F]` replaced by `function` of them, those side by side apart.

    Args:
        function: of an array `[..., D, F]`, whatever the leading dimensions are, to one of the same shape.
        tree: of variables or arrays.
    """

    def mapped(leaf):
        if not _is_variable(leaf):
            return function(leaf)
        return leaf.replace(_map_apart(function, leaf)) if jax.tree.leaves(leaf) else leaf

    return jax.tree.map(mapped, tree, is_leaf=_is_variable)


def _map_apart(function, variable):
    value = variable[...]
    *lead, d_in, d_out = value.shape
    rows, columns = (variable.get_metadata(side, size) for side, size in (("rows", d_in), ("columns", d_out)))
    apart = value.reshape(*lead, d_in // rows, rows, d_out // columns, columns).swapaxes(-3, -2)
    return function(apart).swapaxes(-3, -2).reshape(value.shape)


def layout(tree):
    """For every variable of a tree, and every other leaf, the `PartitionSpec` it lies in while not in use."""
    return jax.tree.map(lambda leaf: _spec(leaf) if _is_variable(leaf) else _REPLICATED, tree, is_leaf=_is_variable)


def psum_gradients(grads):
    """Gradients of parameters as they lie: the psum over the devices that hold the same part."""
    return jax.tree.map(lambda grad: sharding.psum_gradient(grad, _spec(grad)), grads, is_leaf=_is_variable)


def unsharded(module):
    """The module with its parameters unsharded, where the program is that of one device among others."""
    if not sharding.is_per_device():
        return module
    return jax.tree.map(lambda leaf: _unsharded(leaf) if _is_variable(leaf) else leaf, module, is_leaf=_is_variable)


def _unsharded(variable):
    value = variable[...]
    unsharded_value = sharding.unshard(value, letters(variable))
    return variable if unsharded_value is value else variable.replace(unsharded_value)


def _spec(variable):
    if not jax.tree.leaves(variable):
        return _REPLICATED  # an optimiser's moments of a parameter that another optimiser trains: no array
    trailing = letters(variable)
    return sharding.fully_sharded("_" * (variable.ndim - len(trailing)) + trailing)


def letters(variable) -> str:
    """Of its trailing dimensions; "" where it is replicated."""
    return variable.get_metadata("letters") if variable.has_metadata("letters") else ""


def _is_variable(leaf):
    return isinstance(leaf, nnx.Variable)
