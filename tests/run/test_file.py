"""What a runtime makes of damaged files, and of saved conversations that are not its own."""

import json

import numpy as np
import pytest

from mixkabrn_run import file, native, state
from mixkabrn_run.language import load
from mixkabrn_run.model import Model
from tests.run.compiler import needs_compiler
from tests.run.test_against_jax import content_of
from tests.run.test_native import CODED, native_model


@pytest.fixture(scope="module")
def content():
    return content_of(CODED)


def with_header(content, change):
    """The file with its header changed, and nothing else."""
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    change(header)
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + content[8 + length :]


def first_tensor(header):
    return next(entry for name, entry in header.items() if name != "__metadata__")


DAMAGES = {
    "nothing": lambda _: b"",
    "cut short": lambda content: content[:-3],
    "cut in the header": lambda content: content[:200],
    "a zip": lambda content: b"PK\x03\x04" + content[4:],
    "a flipped bit": lambda content: content[:-9] + bytes([content[-9] ^ 1]) + content[-8:],
    "a header of 2^62 bytes": lambda content: (1 << 62).to_bytes(8, "little") + content[8:],
    "another format": lambda content: content.replace(b"mixkabrn-1", b"mixkabrn-9"),
    "a negative size": lambda content: with_header(content, lambda h: first_tensor(h).update(shape=[-4])),
    "a huge size": lambda content: with_header(content, lambda h: first_tensor(h).update(shape=[2**60, 2**60])),
    "overlapping tensors": lambda content: with_header(
        content, lambda h: [e.update(data_offsets=[0, 4]) for n, e in h.items() if n != "__metadata__"]
    ),
    "offsets beyond the end": lambda content: with_header(
        content, lambda h: first_tensor(h).update(data_offsets=[2**40, 2**40 + 4])
    ),
    "no metadata": lambda content: with_header(content, lambda h: h.pop("__metadata__")),
    "a config that is no object": lambda content: with_header(content, lambda h: h["__metadata__"].update(config="[]")),
    "deep nesting": lambda _: (100_000).to_bytes(8, "little") + b"[" * 100_000,
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_file_is_refused_with_a_sentence(name, content, tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(DAMAGES[name](content))
    with pytest.raises(ValueError, match=r"model\.safetensors: ") as error:
        load(path)
    assert "\n" not in str(error.value)


@needs_compiler
@pytest.mark.parametrize("field", ["d_model", "num_layers", "key_width", "num_experts", "experts_per_token", "ffn"])
@pytest.mark.parametrize("value", [0, 7, 10**9, "kann", None])
def test_a_config_that_is_not_that_of_the_tensors_is_refused_by_c(field, value, content):
    def change(header):
        config = json.loads(header["__metadata__"]["config"])
        config["model"][field] = value
        header["__metadata__"]["config"] = json.dumps(config)

    changed = with_header(content, change)
    if file.parse(changed).model == file.parse(content).model:
        pytest.skip("that is what it was")
    with pytest.raises(ValueError, match=r"its config|it is missing|its scales|its embedding"):
        native.NativeModel(changed, file.parse(content).model)


@needs_compiler
def test_a_conversation_of_another_model_or_cut_short_is_refused(content):
    found = file.parse(content)
    session = native_model(content).session(8)
    session.step(1)
    saved = state.save(session, found.sha256)
    other = Model(found).session(8)
    for broken, message in (
        (b"nothing", "no saved conversation"),
        (saved[:8] + bytes(32) + saved[40:], "another model"),
        (saved[:-1], "cut short"),
        (saved + b"x", "longer"),
        (saved[:40] + b"\xff" * 8 + saved[48:], "positions"),
        (saved[:-4] + np.float32(np.nan).tobytes(), "not finite"),
    ):
        with pytest.raises(ValueError, match=message):
            state.restore(other, found.sha256, broken)
