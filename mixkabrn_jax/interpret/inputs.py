"""What each layer of a model reads: the samples that all else here looks at."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from mixkabrn_jax.models.block import Block
from mixkabrn_jax.models.language import LanguageModel


class Inputs(NamedTuple):
    """Of all layers, behind their norms."""

    mixer_LBTD: jax.Array
    ffn_LBTD: jax.Array
    """A mixture's router and its experts read the same."""


@jax.jit
def of_layers(model: LanguageModel, tokens_BT) -> Inputs:
    """What the mixers and the feed-forwards read when the model reads these tokens, each row one document."""
    state = model.init_state(tokens_BT.shape[0], None)
    x_BTD, position_BT, _ = model.embed(model.table(), tokens_BT, state, None, None)

    def run(x_BTD, layer):
        block, mixer_state = layer
        return block(x_BTD, mixer_state, position_BT)[0], Inputs(*block.inputs(x_BTD, mixer_state, position_BT))

    read = []
    for stack, mixer_states in zip(model.stacks().values(), state.mixers, strict=True):
        x_BTD, of_stack = jax.lax.scan(run, x_BTD, (stack, mixer_states))
        read.append(of_stack)
    return jax.tree.map(lambda *parts: jnp.concatenate(parts), *read)


def blocks(model: LanguageModel) -> list[Block]:
    """The blocks in their order, each by itself."""
    return [part(stack, layer) for stack in model.stacks().values() for layer in range(_depth(stack))]


def part(stack, index: int):
    """One of the modules that a stack is made of: a layer of the model's stacks, or an expert of a mixture's."""
    return jax.tree.map(lambda leaf: leaf[index], stack)


def _depth(stack):
    return len(jax.tree.leaves(stack)[0])
