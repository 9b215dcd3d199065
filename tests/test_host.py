import platform
import subprocess
import sys

import pytest

from mixkabrn_jax import host

FAULTS = """
import resource, sys
import numpy as np
from mixkabrn_jax import host
if sys.argv[1] == "keep":
    assert host.keep_freed_memory()
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(2):
    np.ones(2**24)  # 128 MB
before = faults()
for _ in range(4):
    np.ones(2**24)
print(faults() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's allocator has these settings")
def test_freed_memory_is_used_again_without_page_faults():
    def faults(how):
        command = [sys.executable, "-c", FAULTS, how]
        return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

    assert faults("keep") * 10 < faults("leave")


def test_another_c_library_is_left_alone(monkeypatch):
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    assert not host.keep_freed_memory()
