"""What every test runs under; pytest reads this before any test touches jax."""

import gc
import os

import hypothesis
import jax
import jax.numpy as jnp
import pytest


def pytest_configure(config: pytest.Config) -> None:
    # The tolerances are those of the float32 products of a CPU, and a mesh test needs eight devices wherever it runs:
    # an accelerator is left to `-m gpu`.
    wanted = config.getoption("markexpr")
    if "gpu" not in wanted or "not gpu" in wanted:
        jax.config.update("jax_platforms", "cpu")
        # Nearly all of the suite's time is compilation, each program for a few small runs: without the optimiser and,
        # where there is a choice, by the older emitters it is a third. Processes that tests start inherit the flags;
        # those given from outside come later and win.
        cheap = ["--xla_backend_optimization_level=0", "--xla_llvm_disable_expensive_passes=true"]
        if jax.__version_info__ < (0, 11):
            cheap.append("--xla_cpu_use_fusion_emitters=false")  # later ones end the process at a flag they do not know
        os.environ["XLA_FLAGS"] = " ".join([*cheap, os.environ.get("XLA_FLAGS", "")])
    jax.config.update("jax_num_cpu_devices", 8)
    # A missing axis is a wrong formula far more often than a shorthand.
    jax.config.update("jax_numpy_rank_promotion", "raise")


def pytest_collection_finish() -> None:
    gc.collect()
    gc.freeze()  # what lives as long as the suite is not searched for garbage again: 3% of its time


# Derandomised: the same commit gives the same verdict. Few examples: each new shape is a compilation.
hypothesis.settings.register_profile("suite", deadline=None, max_examples=25, derandomize=True)
hypothesis.settings.load_profile("suite")


@pytest.fixture(scope="session", autouse=True)
def _compiled(tmp_path_factory):
    """Tests, and the processes they start, compile the same toy programs again and again: one folder keeps them."""
    directory = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        directory = directory.parent  # of the whole run
    os.environ["XDG_CACHE_HOME"] = str(directory / "cache")  # of tokens; the user's own is left alone
    for name, value in (
        ("jax_compilation_cache_dir", str(directory / "compiled")),
        ("jax_persistent_cache_enable_xla_caches", "none"),  # theirs have paths, by which no two folders are the same
        ("jax_persistent_cache_min_compile_time_secs", 0.0),
        ("jax_persistent_cache_min_entry_size_bytes", -1),
    ):
        jax.config.update(name, value)
        os.environ[name.upper()] = str(value)


@pytest.fixture
def x64():
    """Double precision for one test."""
    with jax.enable_x64(True):
        assert jnp.zeros(()).dtype == jnp.float64
        yield
