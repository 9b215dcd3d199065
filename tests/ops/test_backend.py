"""The choice of a backend, and that nothing else in the library asks JAX where it runs."""

import pathlib
import types

import jax
import pytest

from mixkabrn_jax.ops import backend

LIBRARY = pathlib.Path(backend.__file__).parent.parent


@pytest.mark.parametrize(
    ("platform", "capability", "want"),
    [
        ("cpu", None, "cpu"),
        ("tpu", None, "tpu"),
        ("metal", None, "gpu"),
        ("gpu", "9.0", "pallas"),
        ("gpu", "12.0", "pallas"),
        ("gpu", "7.5", "gpu"),
        ("gpu", "gfx942", "gpu"),
    ],
)
def test_auto_is_where_jax_runs_and_a_name_is_what_it_says(monkeypatch, platform, capability, want):
    monkeypatch.setattr(jax, "default_backend", lambda: platform)
    monkeypatch.setattr(jax, "devices", lambda: [types.SimpleNamespace(compute_capability=capability)])
    assert backend.resolve("auto") == want
    assert [backend.resolve(name) for name in backend.BACKENDS[1:]] == list(backend.BACKENDS[1:])
    assert backend.interprets_kernels() == (platform != "gpu")


def test_an_unknown_backend_is_refused():
    with pytest.raises(ValueError, match="backend='cuda': one of"):
        backend.resolve("cuda")


def test_one_file_asks_where_jax_runs():
    users = [path.name for path in LIBRARY.rglob("*.py") if "default_backend" in path.read_text()]
    assert users == ["backend.py"]
