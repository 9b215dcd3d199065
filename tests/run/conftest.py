"""What tests of the compiled runtime share."""

import pytest


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
