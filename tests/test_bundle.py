"""What a bundle holds is all that a machine without a network needs."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
NO_NETWORK = ("unshare", "--map-root-user", "--net")
"""A network namespace of its own, with no way out of it, not even to itself."""


@pytest.mark.slow  # it downloads all packages
def test_a_bundle_installs_and_trains_where_there_is_no_network(tmp_path):
    if not shutil.which(NO_NETWORK[0]) or subprocess.run([*NO_NETWORK, "true"], capture_output=True).returncode:
        pytest.skip("this machine gives its users no network namespace")
    stick = tmp_path / "stick"
    subprocess.run(["make", "bundle", f"BUNDLE={stick}"], cwd=ROOT, check=True)
    assert {path.name for path in stick.iterdir()} == {
        *("demo.html", "mixkabrn", "README.md", "tiny.safetensors", "wheels")
    }
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PIP_")}
    environment |= {"HOME": str(tmp_path / "home"), "PIP_CONFIG_FILE": os.devnull, "PIP_NO_CACHE_DIR": "1"}

    def there(*command):
        done = subprocess.run(
            [*NO_NETWORK, *command],
            cwd=stick / "mixkabrn",
            env=environment,
            capture_output=True,
            text=True,
            timeout=900,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    there("make", f"PYTHON={sys.executable}", ".venv/installed")
    options = ("--config=configs/lm.py:tiny", "--workdir=runs/short", "--config.num_steps=3")
    assert "done at step 3" in there(".venv/bin/python", "-m", "experiments.train", *options)
    assert there("make", "demo").startswith("The American people ...\n")
