"""Scores for people, and as the JSON of the last line."""

import json
import math


def line(results: dict) -> str:
    """The results as one line of JSON, which knows no infinity: a perplexity that a float cannot hold is null."""
    return json.dumps(_finite(results), allow_nan=False)


def _finite(value):
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def print_sizes(results: dict) -> None:
    """How large a model is."""
    parameters, stored = results["parameters"], results["parameter_bytes"]
    counts = ", ".join(f"{count:,} {kind}" for kind, count in parameters.items())
    print(f"parameters: {counts}, {results['low_bit']:.0%} of them in 8 bits or less")
    print(
        f"bytes: {stored['stored']:,} as trained, {stored['packed']:,} with packed codes, {stored['file']:,} in a file"
    )
    print(f"state: {results['state_bytes']:,} bytes")


def print_task(name: str, found: dict, overall: str) -> None:
    """The figures of a task; a row for each domain where there are several, and one of this name for all documents."""
    print(f"\n{name}")
    rows = {domain or "(no domain)": figures for domain, figures in found.get("domains", {}).items()}
    if len(rows) > 1 or "bits_per_byte" in found:
        rows = {**(rows if len(rows) > 1 else {}), overall: found}
        columns = ["bits_per_byte", "windowed_bits_per_byte", "bits_per_byte_with_end", "word_perplexity", "bytes", "n"]
        if "bits_per_byte" not in found:
            columns = [metric for metric in found if metric != "domains"]
        elif found["target_bytes"] < found["bytes"]:
            columns.insert(1, "target_bits_per_byte")
        width = max(map(len, rows))
        print("  " + " " * width, *(f"{column:>6}" for column in columns), sep="  ")
        for row, figures in rows.items():
            cells = (f"{_figure(figures[column]):>{max(len(column), 6)}}" for column in columns)
            print(f"  {row:<{width}}", *cells, sep="  ")
    else:
        for metric, value in found.items():
            if metric != "domains":
                print(f"  {metric:<24} {_figure(value)}")


def _figure(value):
    return f"{value:,}" if isinstance(value, int) else f"{value:.4f}" if value < 1e5 else f"{value:.3e}"
