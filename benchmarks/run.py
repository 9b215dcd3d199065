"""Our four parts beside their floors and their peers, timed in turns in one run.

    python -m benchmarks.run                       # ours and the floors
    make bench                                     # and the peers, in an environment of their own
    python -m benchmarks.run --suite=gpu           # larger shapes in bfloat16, and the kernels
    python -m benchmarks.run --only='moe*'

Prints one table and writes it to benchmarks/results/, as Markdown and as JSON with the machine and the versions.
"""

import argparse
import datetime
import fnmatch
import importlib.metadata
import json
import os
import pathlib
import platform
import subprocess
import sys

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # a peer's idle threads are not to spin while ours are timed

PEERS = ("torch", "torchscale", "pykan", "jaxkan", "transformers", "flash-linear-attention")
RESULTS = pathlib.Path(__file__).parent / "results"
PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", *PEERS, "onnxruntime")


def main():
    options = _options()
    missing = [name for name in PEERS[:-1] if not _version(name)]
    if options.peers and options.suite == "cpu" and missing:
        sys.exit(f"--peers: not installed: {', '.join(missing)}; make bench sets up an environment that has them")
    # Only here, so that --help and a missing peer are answered at once.
    import jax

    from benchmarks.measure import table
    from mixkabrn_jax import host

    if options.keep_memory:
        host.keep_freed_memory()
    if options.suite == "gpu" and jax.default_backend() != "gpu":
        sys.exit("--suite=gpu: JAX sees no GPU here; install jax[cuda12] or jax[cuda13] on a machine that has one")
    rows, figures = _measure(options)
    if options.only != "*":
        return
    facts = about(jax.devices()[0].device_kind if options.suite == "gpu" else processor())
    name = f"{options.suite}{'-peers' * options.peers}{'-kept-memory' * options.keep_memory}"
    RESULTS.mkdir(exist_ok=True)
    record = {"about": facts, "figures": figures, "rows": [row._asdict() for row in rows]}
    (RESULTS / f"{name}.json").write_text(json.dumps(record, indent=1) + "\n")
    head = f"`python -m benchmarks.run {' '.join(sys.argv[1:])}`, " + "; ".join(
        f"{key} {value}" for key, value in facts.items()
    )
    (RESULTS / f"{name}.md").write_text(f"{head}\n\n{table(rows)}\n")
    print(f"written: {RESULTS / name}.md and .json")


def _measure(options):
    """(rows of the table, further figures by case) of the cases that are asked for, printed one by one."""
    from benchmarks.cases import compilation, kan, kernels, moe, retention, step, ternary
    from benchmarks.measure import measure, table

    rows, figures = [], {}
    parts = (kan, retention, moe, ternary, step, compilation, kernels)
    cases = {name: build for part in parts for name, build in part.cases(options).items()}
    for name, build in cases.items():
        if not fnmatch.fnmatch(name, options.only):
            continue
        case = build()
        measured = measure(name, case)
        print(table(measured) if not rows else "\n".join(table(measured).splitlines()[2:]), flush=True)
        rows += measured
        figures[name] = case.figures
    if not rows:
        sys.exit(f"--only={options.only!r}: none of {', '.join(cases)}")
    return rows, figures


def _options():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--suite", choices=("cpu", "gpu"), default="cpu")
    parser.add_argument("--only", default="*", help="a pattern of names of cases; nothing is written then")
    parser.add_argument("--peers", action="store_true", help="other implementations too; they must be installed")
    parser.add_argument("--keep_memory", action="store_true", help="keep freed memory, as training does; peers too")
    return parser.parse_args()


def about(device):
    """What a figure depends on."""
    git = ["git", "describe", "--always", "--dirty"]
    commit = subprocess.run(git, capture_output=True, text=True, cwd=RESULTS.parent).stdout.strip()
    versions = {name: _version(name) for name in PACKAGES}
    return {
        "date": str(datetime.date.today()),
        "commit": commit or "unknown",
        "device": device,
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        **{name: found for name, found in versions.items() if found},
    }


def processor():
    cpuinfo = pathlib.Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _version(package):
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


if __name__ == "__main__":
    main()
