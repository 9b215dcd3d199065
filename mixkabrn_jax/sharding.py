"""The mesh, and the one table from dimension letters to mesh axes: a layout is written once.

Letters as in the README's legend. A training step runs as one program per device (`jax.shard_map`): rows of the batch
are split over `data` and `expert`, time over `context`, experts over `expert`, and parameters are fully sharded over
`data` while they are not in use (FSDP: Rajbhandari et al. 2020, ZeRO stage 3). What has to cross between these devices
is written where it happens, by the functions below; outside of such a program each of them leaves its argument alone,
so one device needs no mesh. Along `model` (heads, hidden width) devices have the same tokens, and XLA's partitioner
writes what crosses: scales and norms are over whole matrices and rows wherever those lie. The vocabulary is not split:
256 bytes and three special tokens divide by nothing.
"""

import math
from dataclasses import asdict, dataclass

import jax
import numpy as np
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

AXES_OF_LETTER = {
    "B": ("data", "expert"),
    "T": ("context",),
    "E": ("expert",),
    "H": ("model",),
    "F": ("model",),
}
FULLY_SHARDED = {"D": ("data",)}
"""What is split besides while a parameter is not in use."""
BATCH_AXES = ("data", "expert", "context")
"""Each device along them has tokens of its own."""


@dataclass(frozen=True)
class MeshConfig:
    """Devices along each axis; fields are those of `config.mesh`."""

    data: int
    """Rows of the batch; parameters and moments are split along it while they are not in use (FSDP)."""
    expert: int
    """Rows of the batch, and experts."""
    model: int
    """Heads and hidden units (tensor parallelism)."""
    context: int
    """Parts of each sequence."""

    def __post_init__(self):
        for axis, size in asdict(self).items():
            if size < 1:
                raise ValueError(f"config.mesh.{axis}={size}: at least 1 is needed")

    @property
    def size(self) -> int:
        """Devices in all."""
        return math.prod(asdict(self).values())


def make_mesh(config: MeshConfig) -> Mesh:
    """The first devices as a mesh; with several processes, all of them.

    Raises: ValueError when there are fewer devices than the config asks for, or processes that it has no use for.
    """
    sizes, there = asdict(config), jax.device_count()
    asked = " * ".join(f"config.mesh.{axis}={size}" for axis, size in sizes.items() if size > 1)
    if jax.process_count() > 1 and config.size != there:
        raise ValueError(
            f"{asked or 'config.mesh of 1'} device(s): the {jax.process_count()} processes have {there} in all, and "
            "each of them is needed in the mesh"
        )
    if config.size > there:
        raise ValueError(f"{asked} devices: this machine has {there} device(s)")
    devices = jax.devices()[: config.size]
    return jax.make_mesh(tuple(sizes.values()), tuple(sizes), axis_types=(AxisType.Auto,) * len(sizes), devices=devices)


def abstract_mesh(config: MeshConfig) -> AbstractMesh:
    """The mesh without devices, to trace programs on."""
    sizes = asdict(config)
    return AbstractMesh(tuple(sizes.values()), tuple(sizes))


def spec(letters: str) -> PartitionSpec:
    """`spec("BTD")` is PartitionSpec(("data", "expert"), "context", None)."""
    return PartitionSpec(*(_entry(AXES_OF_LETTER.get(letter, ())) for letter in letters))


def fully_sharded(letters: str) -> PartitionSpec:
    """Of a parameter that is not in use: `fully_sharded("EDF")` is PartitionSpec("expert", "data", "model")."""
    return PartitionSpec(
        *(_entry(AXES_OF_LETTER.get(letter, ()) + FULLY_SHARDED.get(letter, ())) for letter in letters)
    )


def axes_of(entry: str | tuple[str, ...]) -> tuple[str, ...]:
    """The mesh axes that an entry of a spec names."""
    return entry if isinstance(entry, tuple) else (entry,)


def _entry(axes):
    return axes[0] if len(axes) == 1 else axes or None


def place(tree, letters: str, mesh: Mesh):
    """Puts every array of a tree on the mesh, laid out by its letters; `""` replicates it on every device."""
    return jax.device_put(tree, NamedSharding(mesh, spec(letters)))


def local_rows(mesh: Mesh, num_rows: int) -> list[int]:
    """Of a batch of so many rows, those that devices of this process have parts of, in rising order."""
    parts = NamedSharding(mesh, spec("B")).addressable_devices_indices_map((num_rows,)).values()
    return sorted({row for (part,) in parts for row in range(num_rows)[part]})


def place_rows(batch, mesh: Mesh, num_rows: int):
    """Puts a batch on the mesh, laid out as "BT".

    Args:
        batch: a tree of arrays `[B, T]`, of this process's rows alone, those of `local_rows`.
        num_rows: of all processes.
    """
    layout, rows = NamedSharding(mesh, spec("BT")), local_rows(mesh, num_rows)

    def place(here_BT):
        def part(index):
            b, t = index
            return here_BT[np.searchsorted(rows, range(num_rows)[b]), t]

        return jax.make_array_from_callback((num_rows, *here_BT.shape[1:]), layout, part)

    return jax.tree.map(place, batch)


def place_by(tree, specs, mesh: Mesh):
    """Puts every array of a tree on the mesh, laid out by a tree of specs or a prefix of one."""
    return jax.device_put(tree, shardings(specs, mesh))


def shardings(specs, mesh: Mesh):
    """A tree of specs as one of shardings."""
    return jax.tree.map(lambda spec: NamedSharding(mesh, spec), specs, is_leaf=_is_spec)


def per_device(function, mesh: Mesh, in_specs, out_specs):
    """`function` as the program of one device, which sees its own parts of the arguments and returns its own parts.

    Nothing tracks which values differ between devices: a sum over devices is its own transpose. So gradients are right
    when what is differentiated, summed over devices, is the whole loss.
    """
    in_specs, out_specs = (_without_model(specs) for specs in (in_specs, out_specs))
    own_axes = {axis for axis in mesh.axis_names if axis in BATCH_AXES or mesh.shape[axis] == 1}
    return jax.shard_map(
        function, mesh=mesh, in_specs=in_specs, out_specs=out_specs, axis_names=own_axes, check_vma=False
    )


def _without_model(specs):
    return jax.tree.map(
        lambda spec: PartitionSpec(*(None if entry == "model" else entry for entry in spec)), specs, is_leaf=_is_spec
    )


def _is_spec(leaf):
    return isinstance(leaf, PartitionSpec)


def _axes_here(axes):
    """Those of the axes along which other devices run this program on parts of their own."""
    mesh = jax.sharding.get_abstract_mesh()
    return tuple(axis for axis in mesh.manual_axes if axis in axes and mesh.shape[axis] > 1)


def is_per_device() -> bool:
    """Whether this is traced as the program of one device among others."""
    return bool(_axes_here(BATCH_AXES))


def psum(tree, axes: tuple[str, ...] = BATCH_AXES):
    """The sum over the devices along the axes."""
    axes = _axes_here(axes)
    return jax.lax.psum(tree, axes) if axes else tree


def psum_gradient(grad, layout: PartitionSpec):
    """Of a parameter: the psum over the devices that hold the same part."""
    split = {axis for entry in layout if entry for axis in axes_of(entry)}
    return psum(grad, tuple(axis for axis in BATCH_AXES if axis not in split))


def unshard(value: jax.Array, letters: str) -> jax.Array:
    """A fully sharded parameter as it is used, by all_gather; its gradient is reduce-scattered.

    Args:
        letters: of the trailing dimensions.
    """
    for dimension, letter in enumerate(letters, start=value.ndim - len(letters)):
        for axis in _axes_here(FULLY_SHARDED.get(letter, ())):
            value = jax.lax.all_gather(value, axis, axis=dimension, tiled=True)
    return value


def all_gather(rows: jax.Array, axis: str, dimension: int = 0) -> jax.Array:
    """The rows `[R, ...]` of all devices along the axis, one device's after the other."""
    return jax.lax.all_gather(rows, axis, axis=dimension, tiled=True) if _axes_here((axis,)) else rows


def local_shard(rows: jax.Array, axis: str, dimension: int = 0) -> jax.Array:
    """This device's part of what `all_gather` gives: its inverse."""
    if not _axes_here((axis,)):
        return rows
    length = rows.shape[dimension] // size(axis)
    return jax.lax.dynamic_slice_in_dim(rows, index(axis) * length, length, axis=dimension)


def reduce_scatter(rows: jax.Array, axis: str) -> jax.Array:
    """The inverse of `all_gather` for parts of a sum: each device's own rows, summed over those along the axis."""
    return jax.lax.psum_scatter(rows, axis, tiled=True) if _axes_here((axis,)) else rows


def all_to_all(rows: jax.Array, axis: str) -> jax.Array:
    """Rows `[E, R, ...]` of every device to those that own the E: `[E / devices, devices * R, ...]`."""
    return jax.lax.all_to_all(rows, axis, 0, 1, tiled=True) if _axes_here((axis,)) else rows


def all_to_all_back(rows: jax.Array, axis: str) -> jax.Array:
    """The inverse of `all_to_all`."""
    return jax.lax.all_to_all(rows, axis, 1, 0, tiled=True) if _axes_here((axis,)) else rows


def size(*axes: str) -> int:
    """Devices along the axes, where this is the program of one of them; else 1."""
    mesh = jax.sharding.get_abstract_mesh()
    return math.prod(mesh.shape[axis] for axis in _axes_here(axes))


def model_size() -> int:
    """Devices along `model`, over which XLA splits what this program computes; 1 without a mesh."""
    return jax.sharding.get_abstract_mesh().shape.get("model", 1)


def index(axis: str) -> jax.Array | int:
    """This device's place along the axis."""
    return jax.lax.axis_index(axis) if _axes_here((axis,)) else 0
