"""The page, and the runtime in it: WebAssembly of the same source, with the same bits."""

import json
import re
import shutil
import subprocess
from base64 import b64decode
from pathlib import Path

import numpy as np
import pytest

from mixkabrn_jax.data.template import TEMPLATES
from mixkabrn_run import file, page
from mixkabrn_run.language import load
from mixkabrn_run.model import Model
from mixkabrn_run.sampling import Sampling, draw
from tests.run.compiler import needs_compiler
from tests.run.test_adapters import beside, random_adapter
from tests.run.test_against_jax import KINDS, content_of, read_all
from tests.run.test_completions import toy_file
from tests.run.test_native import CODED, FORMATS, TOKENS, assert_same_bits

NODE = shutil.which("node")
SCRIPT = """
const [wasm, model, tokens, ...adapters] = process.argv.slice(1), fs = require("fs");
WebAssembly.instantiate(fs.readFileSync(wasm), {}).then(({instance: {exports: c}}) => {
  const read = path => {
    const file = fs.readFileSync(path), at = c.allocate(file.length);
    new Uint8Array(c.memory.buffer, at, file.length).set(file);
    return [at, file.length];
  };
  const error = c.allocate(256), m = c.mk_load(...read(model), 0, 1, error), s = c.mk_new(m, 64), rows = [], drawn = [];
  adapters.forEach((path, i) => c.mk_adapt(s, c.mk_adapter(m, ...read(path), 1, error), 1 - 1.5 * i));
  const seen = c.allocate(c.mk_vocab_size(m));
  JSON.parse(tokens).forEach((token, i) => {
    c.mk_step(s, BigInt(token));
    rows.push(Buffer.from(new Uint8Array(c.memory.buffer, c.mk_logits(s), 4 * c.mk_vocab_size(m))).toString("base64"));
    new Uint8Array(c.memory.buffer)[seen + token] = 1;
    drawn.push([1, 1.7].map(penalty => c.mk_draw(s, 0.8, 9, 0.9, 0.01, penalty, seen, 5n, i)));
  });
  console.log(JSON.stringify({rows, drawn}));
});
"""


@pytest.fixture(params=["committed", "built here"])
def wasm(request, tmp_path):
    if request.param == "committed":
        return page.WASM
    if not (shutil.which("clang") and shutil.which("wasm-ld")):
        pytest.skip("there is no clang with lld to build it")
    built = tmp_path / "runtime.wasm"
    command = [built if word == "runtime.wasm" else word for word in page.COMMAND]
    subprocess.run(command, check=True, cwd=page.WASM.parent)
    return built


@pytest.mark.skipif(NODE is None, reason="no Node to run WebAssembly")
@pytest.mark.parametrize("name", ["all four", "attention", "gated decays"])
@pytest.mark.parametrize("numbers", ["ternary", "dense, kept in 8 bits", "dense, kept in 16 bits"])
def test_webassembly_has_the_bits_of_numpy_and_draws_alike(wasm, name, numbers, tmp_path):
    content = content_of(FORMATS[numbers] | KINDS[name])
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    command = [NODE, "-e", SCRIPT, wasm, path, json.dumps(TOKENS.tolist())]
    found = json.loads(subprocess.run(command, capture_output=True, check=True, timeout=60).stdout)
    want = read_all(Model(file.parse(content)), TOKENS)
    assert_same_bits(np.stack([np.frombuffer(b64decode(row), np.float32) for row in found["rows"]]), want)
    samplings = [Sampling(0.8, 9, 0.9, 0.01, penalty) for penalty in (1, 1.7)]
    seen = [np.isin(np.arange(want.shape[1]), TOKENS[: i + 1]) for i in range(len(want))]
    drawn = [[draw(row, each, 5, i, seen[i]) for each in samplings] for i, row in enumerate(want)]
    assert found["drawn"] == drawn
    assert any(plain != penalized for plain, penalized in drawn)


@pytest.mark.skipif(NODE is None, reason="no Node to run WebAssembly")
def test_webassembly_has_the_bits_of_numpy_with_adapters(wasm, tmp_path):
    content = content_of(CODED | KINDS["own head"])
    found, paths = beside(content), [tmp_path / name for name in ("model", "one", "two")]
    for path, part in zip(paths, (content, *(adapter.content for adapter in found)), strict=True):
        path.write_bytes(part)
    command = [NODE, "-e", SCRIPT, wasm, paths[0], json.dumps(TOKENS.tolist()), *paths[1:]]
    rows = json.loads(subprocess.run(command, capture_output=True, check=True, timeout=60).stdout)["rows"]
    want = read_all(Model(file.parse(content)).adapted(zip(found, (1.0, -0.5), strict=True)), TOKENS)
    assert_same_bits(np.stack([np.frombuffer(b64decode(row), np.float32) for row in rows]), want)


@needs_compiler
@pytest.mark.skipif(NODE is None, reason="no Node to run the page's script")
def test_a_page_chats_by_the_template_of_the_model_or_of_what_it_was_taught(tmp_path):
    path, opened = toy_file(tmp_path, TEMPLATES["chat"]), tmp_path / "taught.safetensors"
    learnt = TEMPLATES["chat"]._replace(user=("Asked: ", "\nAnswer:"))._asdict()
    opened.write_bytes(random_adapter(path.read_bytes(), about={"chat_template": json.dumps(learnt)}))
    base = load(path)
    taught = base.adapted([(base.adapter(opened), 0.5)])
    (tmp_path / "page.html").write_text(page.page(path.read_bytes(), title="toy", about=""))
    asked = {"set": {"prompt": "Who", "most": "30", "temperature": "0", "weight": "0.5"}, "click": "write"}
    steps = [asked, {"open": "adapter", "file": str(opened)}, asked, {"click": "more"}, {"click": "remove"}, asked]
    command = [NODE, Path(__file__).parent / "browser.js", tmp_path / "page.html", json.dumps(steps)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert not done.stderr
    found = json.loads(done.stdout)
    assert {step["error"] for step in found} == {""}
    assert [step["adapters"] for step in found] == ["", *["taught.safetensors \u00d7 0.5"] * 3, "", ""]
    assert {step["asked"] for step in found} == {"Message"}

    def told(language):
        session = language.session()
        while True:
            yield "".join(language.answer([("user", "Who")], session=session, max_tokens=30, sampling=Sampling(0)))

    first, again = (text for text, _ in zip(told(taught), range(2), strict=False))
    for step, language in ((found[0], base), (found[5], base)):
        assert step["text"] == f"Who\n{next(told(language))}"
    assert found[2]["text"] == f"Who\n{first}"
    assert found[3]["text"] == f"Who\n{first}\n\nWho\n{again}"


def test_a_page_holds_all_that_it_needs_and_asks_for_nothing():
    content = content_of(CODED)
    text = page.page(content, title="A <model>", about="texts", prompt="Once & again")
    assert "{{" not in text
    assert "A &lt;model&gt;" in text
    assert "Once &amp; again" in text
    assert not re.search(r"https?:|src=|@import|fetch\(|<link", text)
    assert page.WASM.stat().st_size < 60_000
    with pytest.raises(ValueError, match="no safetensors file"):
        page.page(content[:100], title="", about="")
