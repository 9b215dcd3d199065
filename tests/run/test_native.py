"""The compiled runtime: the bits of the one in NumPy, whatever the processor's kernels, for every kind of model."""

import functools
import shutil
import subprocess

import numpy as np
import pytest

from mixkabrn_run import file, native, state
from mixkabrn_run.model import Model
from tests import toy
from tests.run.compiler import needs_compiler
from tests.run.test_against_jax import DENSE, KINDS, TOKENIZER, content_of, read_all, slowly

pytestmark = needs_compiler

CODED = {"linear": "ternary", "kan__spline_linear": "ternary", "quantization__embedding": "int8"}
FORMATS = {
    "dense": DENSE,
    "dense, kept in 8 bits": DENSE | {"rounding": "int8"},
    "dense, kept in 16 bits": DENSE | {"rounding": "bfloat16"},
    "ternary": CODED,
    "binary": CODED | {"linear": "binary", "kan__spline_linear": "int4", "quantization__embedding": "int4"},
}
TOKENS = np.asarray(toy.tokens(0, 1, 30))[0] % TOKENIZER.vocab_size


def native_model(content, processor=None, threads=1):
    return native.NativeModel(content, file.parse(content).model, processor, threads)


@functools.cache
def expected(name, numbers):
    content = content_of(FORMATS[numbers] | KINDS[name])
    return content, read_all(Model(file.parse(content)), TOKENS)


def assert_same_bits(got, want):
    np.testing.assert_array_equal(got.view(np.int32), want.view(np.int32))


@pytest.mark.parametrize("numbers", FORMATS)
@pytest.mark.parametrize("name", slowly(quick=[*list(KINDS)[:10], "deepnorm", "rational", "adaptive knots, going on"]))
def test_all_processors_have_the_bits_of_numpy(name, numbers, processor):
    content, want = expected(name, numbers)
    assert_same_bits(read_all(native_model(content, processor), TOKENS), want)


@pytest.mark.parametrize("sizes", [{"d_model": 136, "num_heads": 1, "expert_width": 13, "value_width": 7}])
def test_widths_that_fill_no_block_and_no_lane(sizes, processor):
    content = content_of(CODED | sizes)
    assert_same_bits(read_all(native_model(content, processor), TOKENS), read_all(Model(file.parse(content)), TOKENS))


@pytest.mark.parametrize("threads", [2, 3])
@pytest.mark.parametrize("name", ["all four", "attention", "swiglu"])
def test_threads_change_no_bit(name, threads):
    content, want = expected(name, "ternary")
    assert_same_bits(read_all(native_model(content, threads=threads), TOKENS), want)


ARM = {
    "aarch64": ["aarch64-linux-gnu-gcc", "qemu-aarch64"],
    "ARMv7": ["arm-linux-gnueabihf-gcc", "qemu-arm", "-mfpu=neon"],
}


@pytest.mark.parametrize("machine", ARM)
@pytest.mark.parametrize("form", ["-UMK_PLAIN", "-DMK_PLAIN"])
def test_emulated_arm_has_the_bits_of_numpy(machine, form, tmp_path):
    compiler, emulator, *flags = ARM[machine]
    if not (shutil.which(compiler) and shutil.which(emulator)):
        pytest.skip(f"{compiler} or {emulator} is missing")
    content, want = expected("all four", "ternary")
    (tmp_path / "model").write_bytes(content)
    (tmp_path / "logits.c").write_text(PRINT_LOGITS)
    flags += ["-O2", "-static", "-std=c99", "-ffp-contract=off", form, f"-I{native.SOURCE.parent}"]
    subprocess.run([compiler, *flags, "-o", "logits", "logits.c", "-lm"], check=True, cwd=tmp_path)
    command = [emulator, "./logits", "model", *map(str, TOKENS)]
    found = subprocess.run(command, check=True, cwd=tmp_path, capture_output=True, timeout=60).stdout
    assert_same_bits(np.frombuffer(found, np.float32).reshape(want.shape), want)


PRINT_LOGITS = """
#include "runtime.c"
#include <stdio.h>
int main(int argc, char **argv) {
    static uint8_t content[1 << 20];
    char error[256];
    Model *m = mk_load(content, fread(content, 1, sizeof content, fopen(argv[1], "rb")), NULL, 1, error);
    Session *s = mk_new(m, (size_t)argc);
    for (int i = 2; i < argc; i++) {
        mk_step(s, atoi(argv[i]));
        fwrite(mk_logits(s), sizeof(float), mk_vocab_size(m), stdout);
    }
    return 0;
}
"""


@pytest.mark.parametrize("name", ["all four", "attention", "gated decays"])
def test_what_one_runtime_has_saved_the_other_goes_on_from_with_the_same_bits(name):
    content, want = expected(name, "ternary")
    found = file.parse(content)
    models = Model(found), native_model(content)
    for first, second in (models, models[::-1]):
        session = first.session(len(TOKENS))
        for token in TOKENS[:11]:
            session.step(int(token))
        other = second.session(len(TOKENS) + 5)
        state.restore(other, found.sha256, state.save(session, found.sha256))
        assert other.position == 11
        assert_same_bits(np.stack([other.step(int(token)).copy() for token in TOKENS[11:]]), want[11:])


@pytest.mark.parametrize("make", [lambda content: Model(file.parse(content)), native_model], ids=["numpy", "native"])
def test_tokens_that_there_are_not_and_positions_beyond_the_cache_are_refused(make):
    session = make(expected("attention", "dense")[0]).session(2)
    for token in (-1, TOKENIZER.vocab_size):
        with pytest.raises(ValueError, match=f"token {token}: there are {TOKENIZER.vocab_size}"):
            session.step(token)
    session.step(0)
    session.step(0)
    with pytest.raises(ValueError, match="2 positions"):
        session.step(0)
