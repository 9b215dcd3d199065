"""A model as one HTML page that needs nothing else: the runtime as WebAssembly, and the file itself."""

import base64
import html
from pathlib import Path

from mixkabrn_run import file

_FOLDER = Path(__file__).parent
WASM = _FOLDER / "runtime.wasm"
EXPORTS = ("load", "adapter", "new", "adapt", "step", "draw", "logits", "state", "state_bytes", "vocab_size")
COMMAND = (
    *("clang", "--target=wasm32", "-Os", "-std=c99", "-ffp-contract=off", "-msimd128", "-nostdlib"),
    *("-Wl,--no-entry", "-Wl,--strip-all", *(f"-Wl,--export=mk_{name}" for name in EXPORTS)),
    *("-o", "runtime.wasm", "runtime.c"),
)
"""What `runtime.wasm` was built by, in this folder (clang and lld 14)."""


def page(content: bytes, *, title: str, about: str, prompt: str = "") -> str:
    """The page of a model's file.

    Args:
        title: of the page; about: what the model learnt from, in a few words; prompt: what stands there at first.
    Raises: ValueError for bytes that are no model's file.
    """
    file.parse(content)
    words = {
        "title": html.escape(title),
        "about": html.escape(about),
        "prompt": html.escape(prompt),
        "size": f"{len(content) / 1e6:.2f} MB",
        "wasm": base64.b64encode(WASM.read_bytes()).decode(),
        "model": base64.b64encode(content).decode(),
    }
    text = (_FOLDER / "page.html").read_text(encoding="utf-8")
    for name, value in words.items():
        text = text.replace("{{" + name + "}}", value)
    return text
