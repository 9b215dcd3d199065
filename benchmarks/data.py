"""How fast text becomes tokens, and how soon and in how much memory a cached corpus is read:

    python -m benchmarks.data          # writes benchmarks/results/data.json

The text is the built-in corpus again and again, every number in it another one each time, in files of 10 MB. Each
figure is of a process of its own; resident memory is the most that it had.
"""

import argparse
import datetime
import json
import os
import pathlib
import platform
import re
import subprocess
import sys
import tempfile

RESULTS = pathlib.Path(__file__).parent / "results" / "data.json"
_PROGRAM = """
import json, resource, sys, time
from mixkabrn_jax.data import cache, pipeline
from mixkabrn_jax.data.config import DataConfig
from mixkabrn_jax.data.splitting import Split
fields, num_batches = json.loads(sys.argv[1]), int(sys.argv[2])
config = DataConfig(**fields)
began = time.monotonic()
tokenizer = cache.tokenizer(config, [Split(config)])
trained, used = time.monotonic(), time.process_time()
corpus = pipeline.load(config, tokenizer)
loaded = time.monotonic()
processor = time.process_time() - used
batches = pipeline.train_batches(corpus.train, config, 0)
next(batches)
ready = time.monotonic()
for _ in range(num_batches):
    next(batches)
per_batch = (time.monotonic() - ready) / max(num_batches, 1)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
print(json.dumps({
    "tokens": corpus.train.num_targets + corpus.validation.num_targets,
    "seconds_to_train_tokenizer": trained - began, "seconds_to_load": loaded - trained,
    "processor_seconds_to_load": processor, "seconds_to_first_batch": ready - began,
    "milliseconds_per_batch": 1e3 * per_batch, "peak_resident_bytes": peak,
}))
batches.close()
"""


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=1000, help="of text, beside 10")
    parser.add_argument("--tokenizer", default="bytes", help="or bpe")
    arguments = parser.parse_args()
    found = {}
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as directory:
        for megabytes in (10, arguments.megabytes):
            folder = pathlib.Path(directory, f"text-{megabytes}")
            _write(folder, megabytes)
            for start in ("first", "cached"):
                figures = _measure(folder, pathlib.Path(directory, "cache"), arguments.tokenizer)
                figures["megabytes_per_second"] = megabytes / figures["seconds_to_load"]
                figures["load_average"] = os.getloadavg()[0]
                found[f"{megabytes} MB, {start} start"] = figures
                print(f"{megabytes} MB, {start} start: {json.dumps(figures)}", flush=True)
    about = {
        "processor_cores": os.cpu_count(),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "date": datetime.date.today().isoformat(),
        "commit": subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True).stdout.strip(),
    }
    kept = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    kept[arguments.tokenizer] = {"about": about, **found}
    RESULTS.write_text(json.dumps(kept, indent=1) + "\n")


def _write(folder, megabytes):
    """Files of 10 MB; the last one is cut."""
    from mixkabrn_jax.data.sources import sotu

    folder.mkdir()
    text = b"\n\n".join(document.content for document in sotu.documents())[: 10 * 1000 * 1000]
    for copy in range(megabytes // 10):
        changed = re.sub(rb"\d+", lambda found, copy=copy: b"%d" % (int(found[0]) + 7 * copy), text)
        (folder / f"{copy:04}.txt").write_bytes(changed)


def _measure(folder, cache, tokenizer):
    from mixkabrn_jax.data.config import DataConfig

    fields = {
        "source": "text",
        "path": str(folder),
        "validation_fraction": 0.05,
        "tokenizer": tokenizer,
        "sequence_length": 256,
        "batch_size": 8,
        "cache": str(cache),
        "num_threads": 1,
        "timeout_seconds": 0.0,
    }
    DataConfig(**fields)  # a wrong one is answered here
    command = [sys.executable, "-c", _PROGRAM, json.dumps(fields), "100"]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(run.stdout)


if __name__ == "__main__":
    main()
