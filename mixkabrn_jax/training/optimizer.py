"""AdamW by optax and Muon, with the schedules of their rate and weight decay."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import optax

from mixkabrn_jax.layers import variables

Optimizer = optax.GradientTransformation
OptimizerState = optax.OptState
SCHEDULES = ("two_stage", "cosine", "wsd")
MATRICES = ("adamw", "muon")
MUON_RMS = 0.2
"""Root mean square of the entries of Muon's update before the rate: about that of Adam's, so that one rate serves both
(Liu et al. 2025, Muon is Scalable for LLM Training, section 2.2)."""
_NEWTON_SCHULZ = 3.4445, -4.7750, 2.0315
_NEWTON_SCHULZ_STEPS = 5
"""A polynomial that sends singular values of 0.003 to 1, in five steps, to between 0.7 and 1.2 (Jordan et al. 2024)."""


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """The optimiser and its schedule; fields are those of `config.optimizer`."""

    matrices: str = "adamw"
    """What trains the matrices of the layers. muon: steps along the mean gradient with all singular values set to about
    1 (Jordan et al. 2024); adamw. Embedding, head, router, norms and all else are AdamW's in any case."""
    momentum: float = 0.95
    """Decay of Muon's mean of gradients (Nesterov's form)."""
    schedule: str
    """two_stage: BitNet's (Training Tips, Code and FAQ). A line from `peak_rate` towards `final_fraction` of it; at
    half of the steps the rate drops onto the line of `second_peak_rate` with the same end, and weight decay to 0.
    cosine: half a cosine down to the end. wsd: constant, then a line down over the last `decay_fraction` of steps."""
    peak_rate: float
    """Learning rate once it is warm."""
    second_peak_rate: float
    """Where the line of the second half begins; of two_stage alone."""
    final_fraction: float
    """Learning rate at the end, as a fraction of `peak_rate`."""
    decay_fraction: float
    """Of the steps, in which the rate falls; of wsd alone."""
    warmup_steps: int
    """So many steps the rate rises from 0."""
    b1: float
    """Decay of Adam's mean of gradients."""
    b2: float
    """Decay of Adam's mean of squared gradients."""
    epsilon: float
    """Added to the root of that mean."""
    weight_decay: float
    """Of matrices, times the learning rate (AdamW)."""
    clip_norm: float
    """Larger gradients are scaled down to this norm."""

    def __post_init__(self):
        if self.schedule not in SCHEDULES:
            raise ValueError(f"config.optimizer.schedule={self.schedule!r}: one of {SCHEDULES} is needed")
        if self.matrices not in MATRICES:
            raise ValueError(f"config.optimizer.matrices={self.matrices!r}: one of {MATRICES} is needed")
        for field in ("peak_rate", "second_peak_rate", "epsilon", "clip_norm"):
            if not 0 < getattr(self, field) < math.inf:
                raise ValueError(f"config.optimizer.{field}={getattr(self, field)}: more than 0 is needed")
        for field in ("b1", "b2", "momentum"):
            if not 0 <= getattr(self, field) < 1:
                raise ValueError(f"config.optimizer.{field}={getattr(self, field)}: at least 0 and below 1 is needed")
        for field in ("final_fraction", "decay_fraction"):
            if not 0 <= getattr(self, field) <= 1:
                raise ValueError(f"config.optimizer.{field}={getattr(self, field)}: 0 to 1 is needed")
        for field in ("warmup_steps", "weight_decay"):
            if not 0 <= getattr(self, field) < math.inf:
                raise ValueError(f"config.optimizer.{field}={getattr(self, field)}: 0 or more is needed")


def learning_rate(config: OptimizerConfig, num_steps: int) -> Callable[[jax.Array], jax.Array]:
    """The rate as a function of the number of updates already done."""
    end = config.peak_rate * config.final_fraction

    def rate(step):
        warm = jnp.minimum((step + 1) / max(config.warmup_steps, 1), 1)
        progress = jnp.clip((step - config.warmup_steps) / max(num_steps - config.warmup_steps, 1), 0, 1)
        if config.schedule == "two_stage":
            peak = jnp.where(step < num_steps / 2, config.peak_rate, config.second_peak_rate)
            value = peak + (end - peak) * progress
        elif config.schedule == "cosine":
            value = end + (config.peak_rate - end) * (1 + jnp.cos(jnp.pi * progress)) / 2
        else:
            left = jnp.clip((num_steps - step) / max(config.decay_fraction * num_steps, 1), 0, 1)
            value = end + (config.peak_rate - end) * left
        return warm * value

    return rate


def weight_decay(config: OptimizerConfig, num_steps: int) -> Callable[[jax.Array], jax.Array]:
    """The decoupled weight decay: constant, and exactly 0 in the second half of the two-stage schedule."""

    def decay(step):
        if config.schedule == "two_stage":
            return jnp.where(step < num_steps / 2, config.weight_decay, 0.0)
        return jnp.full((), config.weight_decay)

    return decay


_NOT_MATRICES = ("scale", "bias", "decay_logit", "numerator", "denominator", "weight_CD")

_ADAMS = ("embedding", "head", "router", "lora")
"""Matrices that Muon does not train: all entries of a factor of an adapter belong to a few directions."""


def decays(params):
    """Which parameters weight decay applies to: the matrices.

    It spares norms' scales, biases, the learned decays of heads, the short convolution, and the coefficients of
    rational functions: one with smaller coefficients is another function, not a smaller one. Knots are Buffers.
    """

    def is_matrix(path, _):
        return not _name(path).startswith(_NOT_MATRICES)

    return jax.tree_util.tree_map_with_path(is_matrix, params)


def _name(path):
    return [str(key.key) for key in path if isinstance(key, jax.tree_util.DictKey)][-1]


def make(config: OptimizerConfig, num_steps: int) -> Optimizer:
    """Clipping by the global norm, then AdamW, or Muon for the matrices of the layers."""
    adam = optax.scale_by_adam(config.b1, config.b2, config.epsilon)
    scale = adam
    if config.matrices == "muon":
        scale = optax.partition({"muon": _scale_by_muon(config.momentum), "adam": adam}, _optimizers)
    return optax.chain(
        optax.clip_by_global_norm(config.clip_norm),
        scale,
        optax.add_decayed_weights(weight_decay(config, num_steps), mask=decays),
        optax.scale_by_learning_rate(learning_rate(config, num_steps)),
    )


def _scale_by_muon(momentum):
    """Nesterov's mean of gradients, made orthogonal matrix by matrix.

    Stacked leaves are as many matrices, and so are heads and the basis functions of splines, which lie side by side in
    one: they stand for themselves, and Newton-Schulz on smaller matrices is less work (optax's Muon takes wholes: a
    quarter of the time of a step of lm.py:tiny, this a fifteenth, at a lower loss: docs/recipe.md).
    """

    def orthogonalize(updates, _):
        return variables.map_matrices(_orthogonal, updates)

    return optax.chain(optax.trace(momentum, nesterov=True), optax.stateless(orthogonalize))


def _orthogonal(matrices):
    """Matrices `[..., D, F]` with the same singular vectors, all singular values about 1, times what makes the root
    mean square of their entries `MUON_RMS`."""
    *lead, d_in, d_out = matrices.shape
    x = matrices.reshape(-1, d_in, d_out)  # one batch: several dimensions of it take a CPU longer
    if d_in > d_out:
        x = x.swapaxes(-1, -2)  # products of the shorter side
    x = x / (jnp.sqrt(jnp.sum(x**2, axis=(-2, -1), keepdims=True)) + 1e-8)
    a, b, c = _NEWTON_SCHULZ
    for _ in range(_NEWTON_SCHULZ_STEPS):
        gram = x @ x.swapaxes(-1, -2)
        x = a * x + (b * gram + c * gram @ gram) @ x
    if d_in > d_out:
        x = x.swapaxes(-1, -2)
    return MUON_RMS * max(d_in, d_out) ** 0.5 * x.reshape(*lead, d_in, d_out)


def _optimizers(params):
    """Which of the two trains each parameter."""

    def optimizer(path, is_matrix):
        return "muon" if is_matrix and not _name(path).startswith(_ADAMS) else "adam"

    return jax.tree_util.tree_map_with_path(optimizer, decays(params))


def update(optimizer: Optimizer, grads, state: OptimizerState, params):
    """(parameters, the optimiser's state) after one update."""
    updates, state = optimizer.update(grads, state, params)
    return optax.apply_updates(params, updates), state


def global_norm(tree) -> jax.Array:
    """The root of the sum of all squares."""
    return optax.tree.norm(tree)


def carry_moments(state: OptimizerState, change: Callable) -> OptimizerState:
    """The optimiser's state after a change of the parameters that is linear in them, such as a finer spline grid.

    Adam steps by m / sqrt(v), entry by entry, and the change takes a step as it takes the parameters. So m is mapped
    like a parameter (Muon's too, which has no v) and v as the square of its mapped root: where v is even, the next
    steps are the mapped old ones. Gradients of more and narrower functions are smaller by a factor; it cancels in the
    ratio, and old moments are forgotten together. The map may have negative entries, and a root near 0 would make a
    huge step: v is kept at m^2 or more, a step of the learning rate.

    Args:
        state: as `make` gives it.
        change: parameters to parameters, linear; it is applied to trees of moments. What it hands back as it is, an
            array or entries of one of the same shape, keeps its moments to the bit.
    Returns: the state for the changed parameters. Second moments are not negative.
    """

    moments = [part for part in jax.tree.leaves(state, is_leaf=_has_moments) if _has_moments(part)]
    old_mu = _whole([part.mu if _is_adam(part) else part.trace for part in moments])
    old_root = _whole([jax.tree.map(jnp.sqrt, part.nu) if _is_adam(part) else part.trace for part in moments])
    mu, root = change(old_mu), change(old_root)

    def second(nu, old_root, root, old_mu, mu):
        if root is old_root:
            return nu
        mapped = jnp.maximum(root**2, mu**2)
        # Both must be the same: a root may map to itself by chance, to 0 beside an m that is none.
        return jnp.where((root == old_root) & (mu == old_mu), nu, mapped) if root.shape == nu.shape else mapped

    def carry(part):
        if not _has_moments(part):
            return part
        if not _is_adam(part):
            return part._replace(trace=_masked_as(part.trace, mu))
        part = part._replace(mu=_masked_as(part.mu, mu))
        trees = (_masked_as(part.nu, tree) for tree in (old_root, root, old_mu, mu))
        return part._replace(nu=jax.tree.map(second, part.nu, *trees))

    return jax.tree.map(carry, state, is_leaf=_has_moments)


def _is_adam(part):
    return isinstance(part, optax.ScaleByAdamState)


def _has_moments(part):
    return _is_adam(part) or isinstance(part, optax.TraceState)


def _is_masked(leaf):
    return isinstance(leaf, optax.MaskedNode)


def _whole(trees):
    """One tree of all parameters, from trees in which those of another optimiser are masked."""

    def first(*leaves):
        return next(leaf for leaf in leaves if not _is_masked(leaf))

    return jax.tree.map(first, *trees, is_leaf=_is_masked)


def _masked_as(like, tree):
    """The tree with those leaves masked that are in `like`."""
    return jax.tree.map(lambda leaf, value: leaf if _is_masked(leaf) else value, like, tree, is_leaf=_is_masked)
