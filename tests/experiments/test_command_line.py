import os
import platform
from pathlib import Path

from experiments import command_line


def test_compiled_programs_are_kept_where_the_user_says_or_in_the_user_s_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "mine"))
    assert command_line.keep_compiled_programs() == tmp_path / "mine"
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = command_line.keep_compiled_programs()
    assert folder == tmp_path / "cache" / "mixkabrn_jax" / "compiled" / platform.node()
    assert Path(os.environ["JAX_COMPILATION_CACHE_DIR"]) == folder
