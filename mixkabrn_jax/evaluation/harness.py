"""A model of ours as one of lm-evaluation-harness: its tasks are scored by our scorer.

    model, tokenizer, config = runs.open("runs/tiny")
    lm = harness.adapter()(Scorer(model, tokenizer, config["data"]["sequence_length"]))
    lm_eval.simple_evaluate(lm, tasks=["lambada_openai"])

docs/metrics.md has this in full, with a task of one's own.
"""

from collections.abc import Mapping, Sequence

from mixkabrn_jax.data.documents import Document
from mixkabrn_jax.evaluation.score import Scorer

MAX_TOKENS = 256
"""Of a completion whose task names no number, as the harness has it."""


class Requests:
    """The three questions that the harness asks of a model, answered by a scorer. `args` of a request holds it."""

    def __init__(self, scorer: Scorer):
        super().__init__()  # of the harness's own class, in `adapter`
        self._scorer = scorer

    def loglikelihood(self, requests: Sequence, **_) -> list[tuple[float, bool]]:
        """(log likelihood, whether greedy decoding would write it) of continuations, for (context, continuation)."""
        pairs = [tuple(_encoded(text) for text in request.args) for request in requests]
        return [(-found.nats, found.is_greedy) for found in self._scorer.loglikelihood(pairs)]

    def loglikelihood_rolling(self, requests: Sequence, **_) -> list[float]:
        """Log likelihoods of whole texts, for (text,): each behind a separator, the closing one not counted."""
        texts = (_encoded(request.args[0]) for request in requests)
        documents = (Document(text, "", str(number)) for number, text in enumerate(texts))
        return [-scored.nats for scored in self._scorer.documents(documents)]

    def generate_until(self, requests: Sequence, **_) -> list[str]:
        """Completions, for (context, options); requests with the same options go together."""
        groups: dict[tuple, list[int]] = {}
        for index, request in enumerate(requests):
            groups.setdefault(_options(request.args[1]), []).append(index)
        found = [""] * len(requests)
        for (stop, max_tokens, temperature), indices in groups.items():
            prompts = [_encoded(requests[index].args[0]) for index in indices]
            texts = self._scorer.complete(prompts, max_tokens, stop, temperature)
            for index, text in zip(indices, texts, strict=True):
                found[index] = text.decode(errors="replace")
        return found


def adapter() -> type:
    """The class that `lm_eval` takes; it is made of a `Scorer`.

    Raises: ImportError where lm-eval is not installed.
    """
    try:
        from lm_eval.api.model import LM
    except ImportError as error:
        raise ImportError("lm-evaluation-harness is needed: pip install lm-eval") from error
    return type("MixKABRN", (Requests, LM), {})


def _encoded(text):
    return text.encode(errors="replace")


def _options(options: Mapping):
    """(stop, max_tokens, temperature) under the names that the harness has for them; 0 unless it asks to sample."""
    until = options.get("until") or ()
    until = (until,) if isinstance(until, str) else tuple(until)
    names = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
    max_tokens = next((int(options[name]) for name in names if options.get(name) is not None), MAX_TOKENS)
    samples = options.get("do_sample", bool(options.get("temperature")))
    temperature = float(options.get("temperature", 1.0)) if samples else 0.0
    return tuple(_encoded(text) for text in until if text), max_tokens, temperature
