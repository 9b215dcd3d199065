"""The mesh, and the one table from dimension letters to mesh axes: a layout is written once.

Letters as in the README's legend. Today arrays are split over `data` only; the other axes are declared, sized 1.
"""

from dataclasses import asdict, dataclass

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

AXIS_OF_LETTER = {"B": "data", "T": "context", "E": "expert", "H": "model", "F": "model", "W": "model"}


@dataclass(frozen=True)
class MeshConfig:
    """Devices along each axis; fields are those of `config.mesh`."""

    data: int
    expert: int
    model: int
    context: int

    def __post_init__(self):
        for axis, size in asdict(self).items():
            if size < 1:
                raise ValueError(f"config.mesh.{axis}={size}: at least 1 is needed")
            if size > 1 and axis != "data":
                raise ValueError(f"config.mesh.{axis}={size}: only config.mesh.data can be larger than 1 so far")


def make_mesh(config: MeshConfig) -> Mesh:
    """The first devices of this process as a mesh.

    Raises: ValueError when there are fewer devices than the config asks for.
    """
    sizes = asdict(config)
    if config.data > jax.device_count():
        raise ValueError(f"config.mesh.data={config.data}: this machine has {jax.device_count()} device(s)")
    devices = jax.devices()[: config.data]
    return jax.make_mesh(tuple(sizes.values()), tuple(sizes), axis_types=(AxisType.Auto,) * len(sizes), devices=devices)


def spec(letters: str) -> PartitionSpec:
    """`spec("BTD")` is PartitionSpec("data", "context", None)."""
    return PartitionSpec(*(AXIS_OF_LETTER.get(letter) for letter in letters))


def place(tree, letters: str, mesh: Mesh):
    """Puts every array of a tree on the mesh, laid out by its letters; `""` means a copy on every device."""
    return jax.device_put(tree, NamedSharding(mesh, spec(letters)))
