"""What tests of the compiled runtime share."""

import shutil
import subprocess

import pytest

from mixkabrn_run import native


@pytest.fixture(scope="module", params=["plain", "ssse3", "avx2"])
def processor(request):
    """Whose kernels run; skipped where this processor has them not."""
    from tests.run.test_against_jax import content_of
    from tests.run.test_native import native_model

    try:
        native_model(content_of({}), request.param)
    except ValueError:
        pytest.skip(f"this processor has no {request.param}")
    return request.param


@pytest.fixture(scope="session")
def program(tmp_path_factory):
    """The program in C, built so that a warning is an error."""
    source, built = native.SOURCE.with_name("main.c"), tmp_path_factory.mktemp("c") / "mixkabrn"
    compiler = next(filter(shutil.which, ("cc", "gcc", "clang")))
    flags = ["-O1", "-std=c99", "-Wall", "-Wextra", "-pedantic", "-Werror", "-ffp-contract=off"]
    subprocess.run([compiler, *flags, "-o", built, source, "-lm"], check=True)
    return built
