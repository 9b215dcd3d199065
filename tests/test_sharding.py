import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from mixkabrn_jax import sharding
from mixkabrn_jax.sharding import MeshConfig

ONE = {"data": 1, "expert": 1, "model": 1, "context": 1}


def test_letters_name_the_axes_of_the_mesh():
    assert sharding.spec("BTD") == PartitionSpec(("data", "expert"), "context", None)
    assert sharding.spec("EDF") == PartitionSpec("expert", None, "model")
    assert sharding.fully_sharded("EDF") == PartitionSpec("expert", "data", "model")
    assert sharding.fully_sharded("LD_") == PartitionSpec(None, "data", None)
    assert sharding.spec("") == PartitionSpec()
    axes = set(sharding.make_mesh(MeshConfig(**ONE)).axis_names)
    assert {axis for along in sharding.AXES_OF_LETTER.values() for axis in along} == axes
    assert set(sharding.BATCH_AXES) == axes - {"model"}


@pytest.mark.parametrize("devices", [1, 2, 8])
def test_a_batch_is_split_and_a_state_is_replicated(devices):
    mesh = sharding.make_mesh(MeshConfig(**(ONE | {"data": devices})))
    assert mesh.size == devices
    tree = {"a": np.arange(48.0, dtype=np.float32).reshape(8, 6), "b": np.arange(8, dtype=np.int32).reshape(8, 1)}
    split, replicated = sharding.place(tree, "BT", mesh), sharding.place(tree, "", mesh)
    for key, want in tree.items():
        np.testing.assert_array_equal(split[key], want)
        assert {shard.data.shape for shard in split[key].addressable_shards} == {(8 // devices, want.shape[1])}
        assert {shard.data.shape for shard in replicated[key].addressable_shards} == {want.shape}
        assert len(replicated[key].sharding.device_set) == devices


@pytest.mark.parametrize("sizes", [{"data": 2, "expert": 2, "context": 2}, {"context": 4}, {"model": 2, "data": 4}])
def test_rows_of_a_process_go_where_those_of_the_batch_go(sizes):
    mesh = sharding.make_mesh(MeshConfig(**(ONE | sizes)))
    batch_BT = np.arange(96, dtype=np.int32).reshape(8, 12)
    assert sharding.local_rows(mesh, 8) == list(range(8))
    got, want = sharding.place_rows(batch_BT, mesh, 8), sharding.place(batch_BT, "BT", mesh)
    assert got.sharding == want.sharding
    for part, want_part in zip(got.addressable_shards, want.addressable_shards, strict=True):
        np.testing.assert_array_equal(part.data, want_part.data)


@pytest.mark.parametrize("first", [0, 4])
def test_a_process_brings_the_rows_of_its_own_devices(monkeypatch, first):
    """As if the other half of the devices were another process's."""
    mesh = sharding.make_mesh(MeshConfig(**(ONE | {"data": 4, "context": 2})))
    of_all = NamedSharding.addressable_devices_indices_map
    mine = set(mesh.devices.flat[first : first + 4])

    def of_mine(self, shape):
        return {device: index for device, index in of_all(self, shape).items() if device in mine}

    monkeypatch.setattr(NamedSharding, "addressable_devices_indices_map", of_mine)
    rows = sharding.local_rows(mesh, 8)
    assert rows == list(range(first, first + 4))
    parts = {}
    monkeypatch.setattr(jax, "make_array_from_callback", lambda shape, _, part: parts.update(shape=shape, of=part))
    batch_BT = np.arange(96, dtype=np.int32).reshape(8, 12)
    sharding.place_rows(batch_BT[rows], mesh, 8)
    assert parts["shape"] == (8, 12)
    for index in of_mine(NamedSharding(mesh, sharding.spec("BT")), (8, 12)).values():
        np.testing.assert_array_equal(parts["of"](index), batch_BT[index])


def test_more_devices_than_there_are_is_an_error():
    with pytest.raises(
        ValueError, match=rf"config\.mesh\.data=999 devices: this machine has {jax.device_count()} device"
    ):
        sharding.make_mesh(MeshConfig(**(ONE | {"data": 999})))


@pytest.mark.parametrize("axis", ONE)
def test_an_axis_without_a_device_is_named(axis):
    with pytest.raises(ValueError, match=rf"config\.mesh\.{axis}=0"):
        MeshConfig(**(ONE | {axis: 0}))
