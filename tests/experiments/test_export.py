import json

import numpy as np
import pytest

from mixkabrn_jax.export import safetensors


def test_the_file_of_a_run_is_its_model_and_the_last_line_says_what_takes_how_much(entry, trained, capsys, tmp_path):
    directory, model = trained
    out = tmp_path / "model.safetensors"
    entry("export").run(f"--workdir={directory / 'run'}", f"--out={out}")
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["bytes"] == out.stat().st_size
    assert found["exact"]
    assert found["tensors"]["float32"]["bytes"] == 4 * found["tensors"]["float32"]["numbers"]
    back, _, _ = safetensors.from_bytes(out.read_bytes())
    tokens = np.arange(12, dtype=np.int32)[None]
    np.testing.assert_allclose(back(tokens).logits_BTW, model(tokens).logits_BTW, atol=5e-3)


@pytest.mark.parametrize(("out", "message"), [("nowhere/a.safetensors", "there is no folder"), (".", "is a folder")])
def test_a_place_that_cannot_be_written_is_named(entry, trained, tmp_path, out, message):
    directory, _ = trained
    with pytest.raises(SystemExit, match=message):
        entry("export").run(f"--workdir={directory / 'run'}", f"--out={tmp_path / out}")
