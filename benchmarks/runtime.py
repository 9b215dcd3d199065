"""What a token costs in mixkabrn_run beside JAX's step: random models of three sizes, in turns in one process.

    python -m benchmarks.runtime            # writes benchmarks/results/runtime.json and runtime.md
    python -m benchmarks.runtime --peers    # beside ONNX Runtime and a Llama: in the environment of `make bench`

CPU milliseconds are of all threads, medians of the turns; the least wall time of a turn stands beside them, since the
machine may be busy. Memory is what loading a model adds to the process.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import time

from benchmarks.run import RESULTS, about, processor

# Before NumPy is imported: threads that wait for the next product would run on into what is timed after it.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

WIDE = {  # of about 90 M parameters
    "model.d_model": 768,
    "model.embedding_scale": 27.7,
    "model.num_layers": 12,
    "model.num_heads": 6,
    "model.key_width": 128,
    "model.value_width": 128,
    "model.num_experts": 8,
    "model.expert_width": 48,
}
FLOATS = {"model.kan.spline_linear": "dense", "model.quantization.embedding": "dense"}
MODELS = {
    "tiny": ("tiny", {}, 2048),
    "small": ("small", {}, 8192),
    "90 M": ("tiny", WIDE, 2048),
    "90 M, float splines": ("tiny", WIDE | FLOATS, 2048),
}
"""Size of configs/lm.py, what is changed, vocabulary."""
DENSE = {"model.linear": "dense", **FLOATS}
TOKENS = 4
"""In a turn."""


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=15)
    parser.add_argument("--peers", action="store_true")
    options = parser.parse_args()
    rows = {}
    for name in MODELS:
        rows[name] = row(name, options.turns, options.peers)
        print(name, rows[name], flush=True)
    command = f"python -m benchmarks.runtime{' --peers' * options.peers}"
    found = {"command": command, "about": about(processor()), "rows": rows, "long": long_text()}
    name = f"runtime{'-peers' * options.peers}"
    (RESULTS / f"{name}.json").write_text(json.dumps(found, indent=1) + "\n")
    (RESULTS / f"{name}.md").write_text(table(found))


def make(name, **changed):
    """(model, the bytes of its file), with random parameters; `changed` are further fields of its config."""
    import jax
    from flax import nnx

    from configs import lm
    from mixkabrn_jax.data import tokenizers
    from mixkabrn_jax.models.config import ModelConfig
    from mixkabrn_jax.models.language import LanguageModel
    from mixkabrn_jax.runs import model_file
    from mixkabrn_jax.runs.config import build

    size, changes, vocab_size = MODELS[name]
    config = lm.get_config(size)
    config.update_from_flattened_dict(changes | changed)
    tokenizer = tokenizers.Characters("".join(map(chr, range(0x4E00, 0x4E00 + vocab_size - 2))))
    fields = build(ModelConfig, config.model.to_dict(), "config.model")
    model = jax.jit(lambda: LanguageModel(fields, tokenizer.vocab_size, rngs=nnx.Rngs(0)))()
    return model, model_file.to_bytes(model, tokenizer, config.to_dict())


def row(name, turns, peers):
    """The figures of one model; with `peers`, theirs beside it."""
    import jax

    from mixkabrn_jax.runs import model_file
    from mixkabrn_run import file, native
    from mixkabrn_run.model import Model

    model, content = make(name)
    codes = model_file.describe(content).get("ternary", {"numbers": 0})["numbers"]
    found = file.parse(content)
    contenders = {
        "JAX": in_jax(model),
        "JAX, weights rounded once": in_jax(model_file.from_bytes(content)[0]),
        "NumPy": steps(Model(found)),
        "C": steps(native.NativeModel(content, found.model)),
        "C, 2 threads": steps(native.NativeModel(content, found.model, threads=2)),
    }
    parameters = sum(leaf.size for leaf in jax.tree.leaves(model))
    if peers:
        from benchmarks import runtime_peers

        shape = found.model["d_model"], found.model["num_layers"], model.vocab_size
        contenders["ONNX Runtime, as exported"] = runtime_peers.onnx_runtime(content)
        contenders["ONNX Runtime, all float32"] = runtime_peers.onnx_runtime(make(name, **DENSE)[1])
        contenders["Llama of as many parameters"] = runtime_peers.llama(parameters, *shape)
    times = {each: [] for each in contenders}
    for turn in range(turns + 1):
        for each, step in contenders.items():
            cpu, wall = time.process_time(), time.perf_counter()
            for token in range(TOKENS):
                step((turn * TOKENS + token) * 7919 % model.vocab_size)
            times[each].append(
                [1e3 * (now - then) / TOKENS for now, then in ((time.process_time(), cpu), (time.perf_counter(), wall))]
            )
    return {
        "parameters": parameters,
        "file_bytes": len(content),
        "ternary_weights": codes,
        "loaded_bytes": loaded_bytes(content),
        "milliseconds": {
            each: {
                "cpu": round(statistics.median(cpu for cpu, _ in of[1:]), 3),
                "least_wall": round(min(wall for _, wall in of[1:]), 3),
            }
            for each, of in times.items()
        },
    }


def in_jax(model):
    """Its step, compiled, as a function of a token."""
    import jax
    import jax.numpy as jnp

    program, state = jax.jit(lambda model, token, state: model.step(token, state)), model.init_state(1, None)

    def step(token):
        nonlocal state
        logits, state = program(model, jnp.asarray([token]), state)
        logits.block_until_ready()

    return step


def steps(model):
    """Those of a session of mixkabrn_run."""
    return model.session(4096).step


def long_text():
    """Tokens 10 to 1,000 and 10,000 to 11,000 of `tiny` in C, and what memory 20,000 tokens take."""
    from mixkabrn_run import file, native

    content = make("tiny")[1]
    step, marks = steps(native.NativeModel(content, file.parse(content).model)), {}
    for token in range(20_000):
        if token in (10, 1010, 10_000, 11_000):
            marks[token] = time.process_time()
        if token == 1000:
            before = resident()
        step(token % 2000)
    return {
        "early_microseconds": round(1e3 * (marks[1010] - marks[10]), 1),
        "late_microseconds": round(1e3 * (marks[11_000] - marks[10_000]), 1),
        "grown_bytes": resident() - before,
    }


LOAD = """
import json, sys
from benchmarks.runtime import resident
from mixkabrn_run import native
content = sys.stdin.buffer.read()
header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
config = json.loads(header["__metadata__"]["config"])["model"]
native.library()
before = resident()
model = native.NativeModel(content, config)
print(resident() - before)
"""


def loaded_bytes(content):
    """What the model of a file takes in a process that has done nothing else."""
    done = subprocess.run([sys.executable, "-c", LOAD], input=content, capture_output=True, check=True)
    return int(done.stdout)


def resident():
    """Bytes of this process in memory."""
    return int(pathlib.Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def table(found):
    """Markdown."""
    rows, long = found["rows"], found["long"]
    contenders = list(next(iter(rows.values()))["milliseconds"])
    lines = [
        f"`{found['command']}`, {'; '.join(f'{key} {value}' for key, value in found['about'].items())}",
        "",
        "Milliseconds a token: CPU time of all threads, median (least wall time).",
        "",
        f"| model | parameters | {' | '.join(contenders)} |",
        f"|---|---:|{'---:|' * len(contenders)}",
    ]
    for name, row in rows.items():
        times = row["milliseconds"]
        cells = [f"{times[each]['cpu']:.3g} ({times[each]['least_wall']:.3g})" for each in contenders]
        lines.append(f"| {name} | {row['parameters'] / 1e6:.3g} M | {' | '.join(cells)} |")
    others = [each for each in contenders if not each.startswith("C")]
    lines += ["", "CPU time over that of C:", "", f"| model | {' | '.join(others)} |", f"|---|{'---:|' * len(others)}"]
    for name, row in rows.items():
        times = row["milliseconds"]
        cells = [f"{times[each]['cpu'] / times['C']['cpu']:.1f}" for each in others]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    lines += [
        "",
        "| model | file, MB | loaded, MB | ternary weights | bits of memory for each, of all that is loaded |",
    ]
    lines += ["|---|---:|---:|---:|---:|"]
    for name, row in rows.items():
        loaded, codes = row["loaded_bytes"], row["ternary_weights"]
        # What less takes is lost among the pages that the process has anyway.
        is_seen = loaded > 5e6
        memory = f"{loaded / 1e6:.2f}" if is_seen else ""
        bits = f"{8 * loaded / codes:.2f}" if is_seen and "float" not in name else ""
        lines.append(f"| {name} | {row['file_bytes'] / 1e6:.2f} | {memory} | {codes:,} | {bits} |")
    lines += [
        "",
        f"`tiny` in C: a token of the first thousand takes {long['early_microseconds']:.0f} microseconds, of the "
        f"eleventh {long['late_microseconds']:.0f}; memory grew by {long['grown_bytes']:,} bytes from token 1,000 to "
        "20,000.",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
