"""The language model: embedding, stacks of blocks run by `lax.scan`, final norm, head."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from mixkabrn_jax import sharding
from mixkabrn_jax.layers import short_convolution
from mixkabrn_jax.layers.balance import Balance
from mixkabrn_jax.layers.frozen import has_codes, low_rank, with_low_rank
from mixkabrn_jax.layers.linear import effective_table
from mixkabrn_jax.layers.norm import RMSNorm
from mixkabrn_jax.layers.short_convolution import ShortConvolution
from mixkabrn_jax.layers.variables import unsharded
from mixkabrn_jax.models.block import Block
from mixkabrn_jax.models.config import ModelConfig
from mixkabrn_jax.ops import routing


class State(NamedTuple):
    """What generation carries from token to token."""

    position_B: jax.Array
    """int32, tokens seen since the start of the current document."""
    previous_BC: jax.Array
    """int32, the last tokens, which the short convolution sees; C = 0 without one."""
    mixers: tuple[Any, ...]
    """For each stack, the mixers' states with a leading layer dimension."""


class Output(NamedTuple):
    """What a forward pass produces."""

    logits_BTW: jax.Array
    """float32."""
    state: State
    balance: Balance | None
    """Routing of every mixture layer, with a leading layer dimension; None without experts."""
    outside_L: jax.Array | None
    """Share of each layer's KAN inputs that lie outside their grids, float32; None without splines. Inputs are those
    of tokens, not of padding, and for routed experts of the tokens that chose them; with none the share is 0."""


class LanguageModel(nnx.Module):
    """Tokens in, logits and the state after them out. Pure: nothing is stored between calls."""

    def __init__(self, config: ModelConfig, vocab_size: int, *, rngs: nnx.Rngs):
        """
        Args:
            vocab_size: W, the tokens that there are; the tokenizer knows.
        Raises: ValueError for a vocabulary of less than one token.
        """
        if vocab_size < 1:
            raise ValueError(f"vocab_size={vocab_size}: at least 1 is needed")
        self.embedding_WD = _embedding(vocab_size, config.d_model, rngs)
        num_dense = config.first_dense_layers if config.num_experts else config.num_layers
        self.convolution = ShortConvolution(config.d_model, config.conv_size) if config.conv_size > 1 else None
        self.dense_blocks = _stack(config, num_dense, routed=False, rngs=rngs)
        self.routed_blocks = _stack(config, config.num_layers - num_dense, routed=True, rngs=rngs)
        # DeepNorm's blocks end in a norm.
        is_normed = config.residual == "deepnorm"
        self.final_norm = None if is_normed else RMSNorm(config.d_model, config.norm_epsilon)
        self.head_WD = None if config.tied_embeddings else _embedding(vocab_size, config.d_model, rngs)
        self.config = config

    @property
    def vocab_size(self) -> int:
        """W."""
        return self.embedding_WD.shape[0]

    def __call__(self, tokens_BT, state: State | None = None, segment_ids_BT=None, mask_BT=None) -> Output:
        """
        Args:
            tokens_BT: int `[B, T]`.
            state: from `init_state` or an earlier call; None starts fresh, and lets attention keep no cache.
            segment_ids_BT: `[B, T]` int or None; documents packed into one row, each a contiguous run of one id,
                do not see each other. 0 marks padding.
            mask_BT: `[B, T]` or None, 0 at padding, left or right: such positions are not seen by others, do not
                count, and leave the state as it was, so that rows of different lengths share a batch and go on.
                Logits there mean nothing. For rows of one document each: not together with segment ids.
        Raises: ValueError for a mask together with segment ids.
        """
        config = self.config
        if state is None:
            state = self.init_state(tokens_BT.shape[0], None)
        embedding_WD = self.table()
        x_BTD, position_BT, previous_BC = self.embed(embedding_WD, tokens_BT, state, segment_ids_BT, mask_BT)

        def run(x_BTD, layer):
            block, mixer_state = layer
            x_BTD, *produced = unsharded(block)(x_BTD, mixer_state, position_BT, segment_ids_BT, mask_BT)
            return x_BTD, produced

        # Where parameters are sharded a layer's are unsharded while it runs, and again on the way back.
        if config.remat or sharding.is_per_device():
            run = jax.checkpoint(run)
        elif has_codes(self):  # or every layer's matrices would be kept unpacked for the backward pass
            run = jax.checkpoint(run, policy=jax.checkpoint_policies.dots_saveable)
        balance = None
        mixers, outside = [], []
        for blocks, mixer_states in zip(self.stacks().values(), state.mixers, strict=True):
            x_BTD, (mixer_states, balance, counts) = jax.lax.scan(run, x_BTD, (blocks, mixer_states))
            mixers.append(mixer_states)
            outside.append(sharding.psum(counts))
        h_BTD = x_BTD if self.final_norm is None else self.final_norm(x_BTD)
        head_WD = embedding_WD
        if self.head_WD is not None:
            head_WD = self._read(self.head_WD)
        h_RD = h_BTD.reshape(-1, config.d_model)  # one dimension of rows, as in `layers.linear.multiply`
        logits_RW = jnp.einsum("rd,wd->rw", h_RD, head_WD.astype(h_RD.dtype), preferred_element_type=jnp.float32)
        logits_BTW = logits_RW.reshape(*tokens_BT.shape, -1)
        next_B = position_BT[:, -1] + (1 if mask_BT is None else (mask_BT[:, -1] > 0))
        outside_L = None if outside[0] is None else jnp.concatenate([counts.share() for counts in outside])
        return Output(logits_BTW, State(next_B, previous_BC, tuple(mixers)), balance, outside_L)

    def table(self):
        """The embedding as it is read, rounded to its number format: `[W, D]`."""
        return self._read(self.embedding_WD)

    def _read(self, table_WD):
        table_WD = unsharded(table_WD)
        return with_low_rank(effective_table(table_WD[...], self.config.quantization.embedding), low_rank(table_WD))

    def embed(self, embedding_WD, tokens_BT, state, segment_ids_BT, mask_BT):
        """What the first block reads.

        Args: as for the model's call.
        Returns: (`[B, T, D]`, positions `[B, T]`, the last tokens `[B, C]`).
        """
        if segment_ids_BT is not None and mask_BT is not None:
            raise ValueError("mask_BT together with segment_ids_BT: packed documents mark padding by segment id 0")
        num_earlier, length = state.previous_BC.shape[1], tokens_BT.shape[1]
        # Positions count from the start of documents, wherever that is: tokens of the other parts of a sequence matter.
        sequences = jax.tree.map(lambda a: sharding.all_gather(a, "context", 1), (tokens_BT, segment_ids_BT, mask_BT))
        position_BT = sharding.local_shard(_positions(state.position_B, *sequences), "context", 1)
        tokens_BT, _, mask_BT = sequences
        tokens_BS = short_convolution.put_before(state.previous_BC, tokens_BT, mask_BT)
        previous_BC = short_convolution.last(tokens_BS, num_earlier, mask_BT)
        here = length * sharding.index("context")
        tokens_BS = jax.lax.dynamic_slice_in_dim(tokens_BS, here, num_earlier + length, axis=1)
        x_BSD = jnp.take(embedding_WD, tokens_BS, axis=0).astype(self.config.compute_dtype)
        if self.config.embedding_scale != 1:
            x_BSD = x_BSD * self.config.embedding_scale
        x_BTD = x_BSD if self.convolution is None else unsharded(self.convolution)(x_BSD, position_BT)
        return x_BTD, position_BT, previous_BC

    def step(self, tokens_B, state: State):
        """One token a row; an attention cache that is full drops what comes.

        Returns: (logits `[B, W]`, state).
        Raises: ValueError for a state of attention that keeps no cache: the token would see itself alone.
        """
        if any(mixer is None for mixer in state.mixers):
            raise ValueError("this state keeps no attention cache: start from init_state(batch_size, max_length)")
        output = self(tokens_B[:, None], state)
        return output.logits_BTW[:, 0], output.state

    def init_state(self, batch_size: int, max_length: int | None) -> State:
        """An empty state.

        Args:
            max_length: positions of an attention cache; None for no cache. Retention needs none.
        """
        config = self.config

        def one_layer(_):
            if config.mixer == "retention":
                return config.heads.empty_state(batch_size)
            return (
                None if max_length is None else config.heads.empty_cache(batch_size, max_length, config.compute_dtype)
            )

        depths = [jax.tree.leaves(blocks)[0].shape[0] for blocks in self.stacks().values()]
        mixers = tuple(jax.vmap(one_layer)(jnp.arange(depth)) for depth in depths)
        previous_BC = jnp.zeros((batch_size, config.conv_size - 1), jnp.int32)
        return State(jnp.zeros(batch_size, jnp.int32), previous_BC, mixers)

    def stacks(self) -> dict[str, Block]:
        """The stacks of blocks in their order, by name; every leaf has a leading layer dimension."""
        named = {name: getattr(self, name) for name in ("dense_blocks", "routed_blocks")}
        return {name: blocks for name, blocks in named.items() if blocks is not None}


def reorder(state: State, rows_B: jax.Array) -> State:
    """The state whose row b is row `rows_B[b]` of the given one: what a beam search keeps, and how often."""
    mixers = jax.tree.map(lambda leaf: jnp.take(leaf, rows_B, axis=1), state.mixers)
    return State(*(jnp.take(leaf, rows_B, axis=0) for leaf in (state.position_B, state.previous_BC)), mixers)


def update_router_bias(model: LanguageModel, load_LE: jax.Array, rate: float) -> LanguageModel:
    """The model with every router's bias moved towards an even load (DeepSeek-V3, sec. 2.1.2).

    Args:
        load_LE: choices that fell on each expert of each mixture layer in the whole global batch.
        rate: size of the step; the published value is 0.001.
    """
    graph, state = nnx.split(model)
    bias = state["routed_blocks"]["ffn"]["bias_E"]
    state["routed_blocks"]["ffn"]["bias_E"] = bias.replace(routing.update_bias(bias[...], load_LE, rate))
    return nnx.merge(graph, state)


def count_parameters(model: LanguageModel) -> dict[str, int]:
    """Trained parameters: total, active for one token, and those of the embedding and head.

    Works on an abstract model from `jax.eval_shape` too.
    """
    config = model.config
    total = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))
    idle = 0
    if model.routed_blocks is not None:
        experts = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model.routed_blocks.ffn.experts, nnx.Param)))
        idle = experts // config.num_experts * (config.num_experts - config.experts_per_token)
    embedding = model.vocab_size * config.d_model * (1 if config.tied_embeddings else 2)
    return {"total": total, "active": total - idle, "embedding": embedding}


def _embedding(vocab_size, d_model, rngs):
    """Small, so that a tied head starts near even odds: with unit rows the input token itself would look likely."""
    weight_WD = 0.02 * jax.random.normal(rngs.params(), (vocab_size, d_model))
    return nnx.Param(weight_WD, letters="WD")


def _stack(config, num_layers, *, routed, rngs):
    """`num_layers` blocks as one module whose leaves have a leading layer dimension; None for no layers."""
    if not num_layers:
        return None
    keys = jax.random.split(rngs.params(), num_layers)
    return jax.vmap(lambda key: Block(config, routed=routed, rngs=nnx.Rngs(key)))(keys)


def _positions(start_B, tokens_BT, segment_ids_BT, mask_BT):
    """Positions counted from the start of each document; the first document of a row goes on from `start_B`.

    Masked padding counts for nothing: it has the position of the token that comes after it.
    """
    if mask_BT is not None:
        is_token_BT = (mask_BT > 0).astype(jnp.int32)
        return start_B[:, None] + jnp.cumsum(is_token_BT, axis=1) - is_token_BT
    step_1T = jnp.arange(tokens_BT.shape[1], dtype=jnp.int32)[None]
    if segment_ids_BT is None:
        return start_B[:, None] + step_1T
    begins_BT = segment_ids_BT[:, 1:] != segment_ids_BT[:, :-1]
    first_BT = jnp.pad(jnp.where(begins_BT, step_1T[:, 1:], 0), ((0, 0), (1, 0)))
    first_BT = jax.lax.cummax(first_BT, axis=1)
    return jnp.where(first_BT == 0, start_B[:, None] + step_1T, step_1T - first_BT)
