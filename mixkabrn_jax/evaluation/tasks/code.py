"""Programs that the model writes, judged by tests that they must pass: pass@k."""

import math
import os
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

from mixkabrn_jax.data.documents import Document
from mixkabrn_jax.evaluation import sandbox
from mixkabrn_jax.evaluation.tasks.options import Options, batches, bits, targets

# What follows a finished function (Chen et al. 2021).
_STOP = (b"\nclass", b"\ndef", b"\n#", b"\nif", b"\nprint")
_MAX_TOKENS = 512


def pass_at_k(num_samples: int, num_right: int, k: int) -> float:
    """How likely one of k samples is right, from n samples of which c are: 1 - C(n - c, k) / C(n, k), unbiased.

    Chen et al. 2021, equation 1. What one gets from c/n alone, 1 - (1 - c/n)^k, is too low.
    """
    return 1 - math.comb(num_samples - num_right, k) / math.comb(num_samples, k)


def run(scorer, documents: Iterable[Document], options: Options) -> dict[str, float | int]:
    """Writes programs for each problem and runs them: pass@k, target_bits_per_byte, num_samples and n.

    Raises: ValueError where running code was not asked for, or options do not fit; `sandbox.UnguardedError` where this
        machine cannot guard it.
    """
    check(options)
    solved, sums = [], Counter()
    for batch in batches(documents, options, "humaneval"):
        for document in batch:
            if not document.tests:
                raise ValueError(f"{document.id}: humaneval needs documents with tests, and this has none")
        owners = [document for document in batch for _ in range(options.num_samples)]
        prompts = [document.prompt for document in owners]
        how = options.max_tokens or _MAX_TOKENS, _STOP, options.temperature, options.seed + len(solved)
        completions = scorer.complete(prompts, *how)
        tests = [document.tests for document in owners]
        results = run_all([program(*parts) for parts in zip(prompts, completions, tests, strict=True)])
        for document, text, result in zip(owners, completions, results, strict=True):
            options.keep(document, text.decode(errors="replace"), result.passed)
        rows = [results[start : start + options.num_samples] for start in range(0, len(results), options.num_samples)]
        solved += [sum(result.passed for result in row) for row in rows]
        for document, found in zip(batch, targets(scorer, batch, Options()), strict=True):
            sums.update(nats=found.nats, bytes=len(document.target))
    figures = {
        f"pass@{k}": sum(pass_at_k(options.num_samples, num_right, k) for num_right in solved) / len(solved)
        for k in options.ks
        if k <= options.num_samples
    }
    return {
        **figures,
        "target_bits_per_byte": bits(sums),
        "num_samples": options.num_samples,
        "n": len(solved),
    }


def check(options: Options) -> None:
    """Whether programs can be written and run so. Raises: as `run`."""
    if not options.allow_code:
        raise ValueError(
            "humaneval: programs that the model wrote are run with allow_code=True (--allow_code) alone, each under "
            "guard in a process and a folder of its own, without network"
        )
    if options.num_samples < 1:
        raise ValueError(f"num_samples={options.num_samples}: at least 1 is needed")
    if options.num_samples > 1 and not options.temperature:
        raise ValueError(
            f"num_samples={options.num_samples} at temperature=0 are all the same: set a temperature, such as 0.8"
        )
    if not any(1 <= k <= options.num_samples for k in options.ks):
        raise ValueError(f"ks={tuple(options.ks)}: one from 1 to num_samples={options.num_samples} is needed")
    sandbox.check()


def program(prompt: bytes, completion: bytes, tests: str) -> str:
    """What is run: the tests stand last, and raise unless what stands before is right."""
    return (prompt + completion).decode(errors="replace") + "\n" + tests


def run_all(programs: list[str]) -> list[sandbox.Result]:
    """Runs programs side by side, as many as there are processors: each has its time to itself."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(sandbox.run, programs))
