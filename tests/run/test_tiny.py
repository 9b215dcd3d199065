"""The model in the box: one result on every machine, and what JAX's arithmetic makes of it."""

import hashlib
import json
import shutil
import subprocess
from base64 import b64decode

import jax
import numpy as np
import pytest

import mixkabrn_run
from experiments.evaluating.documents import Run, Wanted, reader
from mixkabrn_jax.data.documents import Skipped
from mixkabrn_jax.evaluation.score import Scorer
from mixkabrn_jax.evaluation.tasks import TASKS
from mixkabrn_jax.inference.generate import generate
from mixkabrn_jax.inference.sampling import Sampling
from mixkabrn_jax.runs import model_file
from mixkabrn_run import file, page
from mixkabrn_run.language import TINY
from tests.run.compiler import needs_compiler
from tests.run.test_native import native_model
from tests.run.test_page import SCRIPT

BITS = "ca8702085f8795c33de27d9d2bc6c7e99ceba8eb15e74333a8f43f5e37223e05"
"""SHA-256 of the logits behind each of `TOKENS`."""
TOKENS = [(7 * i * i + 3 * i) % 2000 for i in range(200)]


def bits(rows):
    return hashlib.sha256(b"".join(np.ascontiguousarray(row, "<f4").tobytes() for row in rows)).hexdigest()


def rows_of(model):
    session = model.session(len(TOKENS))
    return [session.step(token).copy() for token in TOKENS]


def test_numpy_has_its_bits():
    assert bits(rows_of(mixkabrn_run.load(backend="numpy").model)) == BITS


@needs_compiler
def test_every_processor_has_its_bits(processor):
    assert bits(rows_of(native_model(TINY.read_bytes(), processor))) == BITS


@pytest.mark.skipif(not shutil.which("node"), reason="no Node to run WebAssembly")
def test_webassembly_has_its_bits():
    command = ["node", "-e", SCRIPT, page.WASM, TINY, json.dumps(TOKENS)]
    found = json.loads(subprocess.run(command, capture_output=True, check=True, timeout=60).stdout)
    assert bits([np.frombuffer(b64decode(row), np.float32) for row in found["rows"]]) == BITS


def test_it_is_small_and_says_where_it_comes_from():
    about = file.read(TINY).about
    assert TINY.stat().st_size < 1e6
    assert about["command"].startswith("python -m experiments.train --config=configs/lm.py:tiny")
    assert about["validation"]["bits_per_byte"] < 1.4
    demo = (page.WASM.parent.parent / "docs" / "demo.html").read_text()
    assert demo == page.page(
        TINY.read_bytes(), title="demo", about="the State of the Union addresses", prompt="The American people"
    )


@needs_compiler
@pytest.mark.slow
def test_jax_gives_it_nearly_the_same_logits_scores_and_texts():
    """Sums of another order move an input to the next code now and then, and a recurrence remembers it."""
    language, (model, tokenizer, config) = mixkabrn_run.load(), model_file.read(TINY)
    header = model_file.read_header(TINY)
    run = Run(TINY, header.config, header.tokenizer, header.about["data"])
    documents = list(reader(TASKS["bits_per_byte"], run, Wanted("", "", None, {}))(Skipped()))
    scorer = Scorer(model, tokenizer, config["data"]["sequence_length"])
    want = TASKS["bits_per_byte"].run(scorer, documents, None)["bits_per_byte"]
    scores = [language.score(document.content) for document in documents]
    mine = sum(score["bits_per_byte"] * score["bytes"] for score in scores) / sum(score["bytes"] for score in scores)
    print(f"bits per byte: {mine:.5f}, in JAX {want:.5f}: {100 * (mine / want - 1):+.4f}%")
    assert abs(mine / want - 1) < 5e-4

    logits = jax.jit(lambda model, tokens: model(tokens).logits_BTW)(model, np.array([TOKENS]))[0]
    distance = np.abs(np.stack(rows_of(language.model)) - logits)
    print(f"logits: median difference {np.median(distance):.1e}, largest {distance.max():.1e}")
    assert np.median(distance) < 2e-2

    alike = 0
    for document in documents[:10]:
        prompt = document.content[:60].decode(errors="ignore")
        tokens = np.array([[tokenizer.separator, *language.tokenizer.encode(prompt)]])
        greedy = generate(model, tokens, max_tokens=100, sampling=Sampling(temperature=0), seed=0)
        theirs = [int(token_B[0]) for token_B in greedy]
        session = language.session(300)
        logits, own = language.read(tokens[0, 1:], session), []
        for _ in range(100):
            own.append(int(np.argmax(logits)))
            logits = session.step(own[-1])
        alike += own == theirs
    print(f"greedy texts of 100 tokens: {alike} of 10 are the same")
    assert alike >= 9
