"""From logits to the next token, with the same bits on every machine."""

from dataclasses import dataclass

import numpy as np

from mixkabrn_run import arithmetic

_MASK = (1 << 64) - 1


@dataclass(frozen=True)
class Sampling:
    """How the next token is drawn; fields as in `mixkabrn_jax.inference.sampling`, applied in their order."""

    temperature: float = 0.7
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0

    def __post_init__(self):
        if not 0 <= self.temperature < float("inf"):
            raise ValueError(f"temperature={self.temperature}: 0 or more is needed")
        if self.top_k < 0:
            raise ValueError(f"top_k={self.top_k}: 0 (all) or more is needed")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p={self.top_p}: more than 0 and at most 1 is needed")
        if not 0 <= self.min_p <= 1:
            raise ValueError(f"min_p={self.min_p}: 0 to 1 is needed")


def draw(logits: np.ndarray, sampling: Sampling, seed: int, index: int) -> int:
    """The next token; the same seed and index give the same draw."""
    if sampling.temperature == 0:
        return int(np.argmax(logits))
    weights = arithmetic.exp((logits - np.max(logits)) / np.float32(sampling.temperature)).astype(np.float64)
    order = np.argsort(-weights, kind="stable")
    weights = weights[order]
    kept = len(weights)
    if 0 < sampling.top_k < kept:
        kept = int(np.count_nonzero(weights >= weights[sampling.top_k - 1]))
    reach = np.cumsum(weights[:kept])
    if sampling.top_p < 1:
        kept = int(np.count_nonzero(np.append(0.0, reach[:-1]) < sampling.top_p * reach[-1]))
    if sampling.min_p > 0:
        kept = min(kept, int(np.count_nonzero(weights >= sampling.min_p)))
    place = uniform(seed, index) * reach[kept - 1]
    return int(order[min(int(np.searchsorted(reach[:kept], place, side="right")), kept - 1)])


def uniform(seed: int, index: int) -> float:
    """A number in [0, 1) with 53 random bits: SplitMix64 (Steele et al. 2014) of a counter."""
    x = (seed * 0xD1342543DE82EF95 + (index + 1) * 0x9E3779B97F4A7C15) & _MASK
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 & _MASK
    x = (x ^ x >> 27) * 0x94D049BB133111EB & _MASK
    return ((x ^ x >> 31) >> 11) * 2.0**-53
