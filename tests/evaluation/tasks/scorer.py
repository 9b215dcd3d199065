"""A scorer of given answers, in place of a model."""

from typing import NamedTuple


class Likelihood(NamedTuple):
    """As `evaluation.score.Likelihood`."""

    nats: float
    tokens: int
    is_greedy: bool


class Scorer:
    """Writes what it is told to, whatever it is asked; a byte of a target that it would write costs 1 nat, others 2."""

    def __init__(self, written):
        """
        Args:
            written: {prompt: what stands behind it}; of several, the next each time.
        """
        self.written = {prompt: [text] if isinstance(text, bytes) else list(text) for prompt, text in written.items()}
        self.asked, self.seeds = [], []

    def loglikelihood(self, pairs):
        found = [(target, self.written[prompt][0].startswith(target)) for prompt, target in pairs]
        return [Likelihood(len(target) * (2.0 - is_greedy), len(target), is_greedy) for target, is_greedy in found]

    def complete(self, prompts, max_tokens, stop=(), temperature=0.0, seed=0):
        del temperature
        self.seeds.append(seed)
        found = []
        for prompt in prompts:
            self.asked.append(prompt)
            texts = self.written[prompt]
            text = (texts.pop(0) if len(texts) > 1 else texts[0])[:max_tokens]
            for end in stop:
                text = text.partition(end)[0]
            found.append(text)
        return found
