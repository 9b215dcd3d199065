"""Folders as finished runs leave them, without training anything."""

import json

from tests import toy

DATA = {"train": "900 targets, SHA-256 aa11", "validation": "100 targets, SHA-256 bb22"}


def write(path, bits, *, seed=0, data=DATA, tokenizer="bytes", stop_at=None, sizes=(2000, 1000, 700), **changes):
    """Writes a run whose last validation has so many bits per byte; changes as for `toy.document`.

    Args:
        stop_at: the step of its last record, where it is not finished.
        sizes: parameters, active ones, bytes in a file.
    """
    config = toy.document(seed=seed, **changes)
    last = config["num_steps"]
    names = ("parameters", "active_parameters", "file_bytes")
    records = []
    for step in range(2, (stop_at or last) + 1, 2):
        now = bits + 3 / step - 3 / last
        train = {"tokens_per_second": 50.0 * step, "model_flops_per_second": 6000.0 * 50 * step, "skipped": 0}
        records.append({"step": step, "split": "train", "loss": 2 * now, "bits_per_byte": now} | train)
        if step % 4 == 0:
            losses = {"loss": 2 * now, "bits_per_byte": now, "tokens": 60 if step < last else 100}
            records.append({"step": step, "split": "validation"} | losses | dict(zip(names, sizes, strict=True)))
    path.mkdir(parents=True)
    (path / "config.json").write_text(json.dumps(config))
    (path / "data.json").write_text(json.dumps(data))
    (path / "tokenizer.json").write_text(json.dumps({"kind": tokenizer}))
    (path / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return path
