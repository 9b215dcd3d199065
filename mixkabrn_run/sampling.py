"""From logits to the next token, with the same bits on every machine."""

from dataclasses import dataclass

import numpy as np

from mixkabrn_run import arithmetic

NUM_SEEDS = 1 << 32  # as many as JAX tells apart
_WORD = NUM_SEEDS - 1


@dataclass(frozen=True)
class Sampling:
    """How the next token is drawn: fields and their order as in `mixkabrn_jax.inference.sampling`."""

    temperature: float = 0.7
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0

    def __post_init__(self):
        if self.temperature != 0 and not 1e-3 <= self.temperature < float("inf"):
            raise ValueError(f"temperature={self.temperature}: 0, or 0.001 and more, is needed")
        if self.top_k < 0:
            raise ValueError(f"top_k={self.top_k}: 0 (all) or more is needed")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p={self.top_p}: more than 0 and at most 1 is needed")
        if not 0 <= self.min_p <= 1:
            raise ValueError(f"min_p={self.min_p}: 0 to 1 is needed")
        if not 0.01 <= self.repetition_penalty <= 100:
            raise ValueError(f"repetition_penalty={self.repetition_penalty}: 0.01 to 100 is needed")


def draw(logits: np.ndarray, sampling: Sampling, seed: int, index: int, seen: np.ndarray | None = None) -> int:
    """The next token; the same seed and index give the same draw, as `mixkabrn_jax.inference.sampling` has it.

    Args:
        logits: float32 `[W]`.
        seen: bool `[W]`, the tokens that the repetition penalty is for; None for no token.
    """
    if seen is not None and sampling.repetition_penalty != 1:
        penalty = np.float32(sampling.repetition_penalty)
        logits = np.where(seen, np.where(logits > 0, logits / penalty, logits * penalty), logits)
    if sampling.temperature == 0:
        return int(np.argmax(logits))
    weights = arithmetic.exp((logits - np.max(logits)) / np.float32(sampling.temperature)).astype(np.float64)
    if 0 < sampling.top_k < len(weights):
        weights[weights < np.sort(weights)[-sampling.top_k]] = 0
    if sampling.top_p < 1:
        order = np.argsort(-weights, kind="stable")
        reach = np.cumsum(weights[order])
        before = np.append(0.0, reach[:-1])
        weights[order[before >= sampling.top_p * reach[-1]]] = 0
    weights[weights < sampling.min_p] = 0
    reach = np.cumsum(weights)
    place = float(uniform(seed, index)) * reach[-1]
    return min(int(np.searchsorted(reach, place, side="right")), int(np.flatnonzero(weights)[-1]))


def check_seed(seed: int) -> None:
    """Raises: ValueError for a seed that JAX does not tell from others."""
    if not 0 <= seed <= _WORD:
        raise ValueError(f"seed={seed}: 0 to {NUM_SEEDS - 1} is needed")


def uniform(seed: int, index: int) -> np.float32:
    """The number in [0, 1) that JAX draws from key `seed` folded in with `index`."""
    key = _threefry((seed >> 32 & _WORD, seed & _WORD), (0, index & _WORD))
    left, right = _threefry(key, (0, 0))
    return np.uint32((left ^ right) >> 9 | 0x3F800000).view(np.float32) - np.float32(1)


def _threefry(key, counter):
    """Threefry-2x32 of 20 rounds (Salmon et al., Parallel Random Numbers: As Easy as 1, 2, 3, 2011)."""
    keys = (*key, key[0] ^ key[1] ^ 0x1BD11BDA)
    x, y = (counter[0] + keys[0]) & _WORD, (counter[1] + keys[1]) & _WORD
    for turn in range(5):
        for rotation in ((13, 15, 26, 6), (17, 29, 16, 24))[turn % 2]:
            x = (x + y) & _WORD
            y = (y << rotation & _WORD | y >> 32 - rotation) ^ x
        x, y = (x + keys[(turn + 1) % 3]) & _WORD, (y + keys[(turn + 2) % 3] + turn + 1) & _WORD
    return x, y
