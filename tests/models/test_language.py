"""What holds for a whole model, whatever its mixer."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.extend import core

from mixkabrn_jax.models import grid, language
from mixkabrn_jax.models.config import MIXERS
from tests import reference, toy

forward = jax.jit(
    lambda model, tokens, state=None, segment_ids=None, mask=None: model(tokens, state, segment_ids, mask)
)
step = jax.jit(lambda model, tokens, state: model.step(tokens, state))
BOTH_STACKS = {"num_layers": 3, "first_dense_layers": 1, "ffn": "mlp"}


def test_an_embedding_of_integers_is_read_and_multiplied_by_as_it_rounds():
    """One scale for each token's row: a rare token's small row keeps its digits."""
    plain = toy.make(toy.model_config(linear="dense", ffn="mlp", num_experts=0))
    plain.embedding_WD[...] = plain.embedding_WD[...] * jnp.geomspace(0.01, 1, toy.VOCAB_SIZE).reshape(-1, 1)
    coded = nnx.clone(plain)
    coded.config = toy.model_config(linear="dense", ffn="mlp", num_experts=0, quantization__embedding="int8")
    table = np.asarray(plain.embedding_WD[...], np.float64)
    step = np.abs(table).max(axis=1, keepdims=True) / 127
    plain.embedding_WD[...] = jnp.array(np.round(table / step) * step, jnp.float32)
    want, got = (np.asarray(forward(model, toy.tokens(5, 2, 8)).logits_BTW) for model in (plain, coded))
    reference.assert_close(got, want, terms=256)


@pytest.mark.parametrize(
    ("mixer", "linear"),
    [("retention", "dense"), pytest.param("retention", "ternary", marks=pytest.mark.slow), ("attention", "dense")],
)
def test_pieces_then_single_steps_are_the_whole_pass(mixer, linear, monkeypatch):
    # Activations are not rounded here: a code may flip where two orders of a sum differ by one rounding. With them,
    # tests of generation compare greedy tokens.
    monkeypatch.setattr("mixkabrn_jax.ops.ternary.fake_quant_activation", lambda x, bits: x)  # noqa: ARG005
    config = toy.model_config(mixer=mixer, linear=linear, **(BOTH_STACKS if linear == "dense" else {"ffn": "mlp"}))
    model, tokens = toy.make(config), toy.tokens(0, 2, 12)
    whole = forward(model, tokens)
    state = model.init_state(2, 14)
    pieces = []
    for start, end in ((0, 5), (5, 10)):  # neither ends where a chunk of 4 ends
        output = forward(model, tokens[:, start:end], state)
        pieces.append(output.logits_BTW)
        state = output.state
    for t in (10, 11):
        logits_BW, state = step(model, tokens[:, t], state)
        pieces.append(logits_BW[:, None])
    assert whole.logits_BTW.dtype == jnp.float32
    reference.assert_close(
        np.concatenate(pieces, axis=1), whole.logits_BTW, atol=toy.rounding(whole.logits_BTW, config, 12)
    )
    np.testing.assert_array_equal(state.position_B, [12, 12])
    if mixer == "retention":
        for got, want in zip(state.mixers, whole.state.mixers, strict=True):
            reference.assert_close(got, want, atol=toy.rounding(want, config, 12))


@pytest.mark.parametrize("mixer", MIXERS)
def test_packed_documents_are_each_document_alone(mixer):
    config = toy.model_config(mixer=mixer, ffn="mlp")
    model, tokens = toy.make(config), toy.tokens(0, 2, 14)
    segment_ids = np.repeat([[1, 2, 0], [3, 9, 0]], [6, 6, 2], axis=1).astype(np.int32)
    packed = forward(model, tokens, segment_ids=segment_ids)
    alone = forward(model, tokens[:, :12].reshape(4, 6))
    got = np.asarray(packed.logits_BTW)[:, :12].reshape(4, 6, -1)
    reference.assert_close(got, alone.logits_BTW, atol=toy.rounding(got, config, 14))
    # Padding is routed like any token and counted in nothing.
    np.testing.assert_array_equal(packed.balance.load_E, alone.balance.load_E)
    reference.assert_close(packed.balance.loss, alone.balance.loss, atol=toy.rounding(1.0, config, 14))


def test_documents_go_on_from_a_state():
    """The first document of a row goes on with the state that comes in, the next ones start from nothing."""
    config = toy.model_config(ffn="mlp", num_experts=0)
    model, tokens = toy.make(config), toy.tokens(0, 1, 12)
    whole = forward(model, tokens, None, np.repeat([[1, 2]], [8, 4], axis=1).astype(np.int32))
    first = forward(model, tokens[:, :6])
    rest = forward(model, tokens[:, 6:], first.state, np.repeat([[1, 2]], [2, 4], axis=1).astype(np.int32))
    got = np.concatenate([first.logits_BTW, rest.logits_BTW], axis=1)
    reference.assert_close(got, whole.logits_BTW, atol=toy.rounding(got, config, 12))
    assert rest.state.position_B == 4


@pytest.mark.parametrize(
    ("mixer", "max_length"),
    [
        ("retention", None),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in (("attention", 14), ("retention", 14), ("attention", None))
        ),
    ],
)
def test_padding_left_or_right_changes_nothing_and_is_gone_on_from(mixer, max_length):
    config = toy.model_config(mixer=mixer, ffn="mlp")
    model, tokens = toy.make(config), toy.tokens(0, 2, 9)
    mask = np.ones((2, 9), np.int32)
    mask[0, :4], mask[1, 5:] = 0, 0
    output = forward(model, tokens, model.init_state(2, max_length), None, mask)
    np.testing.assert_array_equal(output.state.position_B, [5, 5])
    # Every token of both rows is routed to two experts in each layer, padding to none.
    np.testing.assert_array_equal(output.balance.load_E.sum(axis=-1), [2 * 10] * 2)
    for row in range(2):
        kept = tokens[row : row + 1, mask[row] == 1]
        alone = forward(model, kept, model.init_state(1, max_length))
        atol = toy.rounding(alone.logits_BTW, config, 9)
        got = np.asarray(output.logits_BTW)[row : row + 1, mask[row] == 1]
        reference.assert_close(got, alone.logits_BTW, atol=atol)
        if mixer == "attention" and max_length is None:
            continue  # nothing was kept to go on from
        more = toy.tokens(1, 1)
        got, _ = step(model, np.repeat(more, 2), output.state)
        want, _ = step(model, more, alone.state)
        reference.assert_close(got[row : row + 1], want, atol=atol)


def test_a_mask_together_with_documents_is_refused():
    model, tokens = toy.make(toy.model_config(ffn="mlp", num_experts=0)), toy.tokens(0, 1, 4)
    ones = np.ones((1, 4), np.int32)
    with pytest.raises(ValueError, match="mask_BT together with segment_ids_BT"):
        model(tokens, segment_ids_BT=ones, mask_BT=ones)


def test_a_step_of_attention_without_a_cache_is_refused():
    model, tokens = toy.make(toy.model_config(mixer="attention", ffn="mlp", num_experts=0)), toy.tokens(0, 1, 4)
    with pytest.raises(ValueError, match=r"init_state\(batch_size, max_length\)"):
        model.step(tokens[:, 0], model.init_state(1, None))


@pytest.mark.parametrize("mixer", MIXERS)
def test_a_reordered_state_is_that_of_the_reordered_rows(mixer):
    config = toy.model_config(mixer=mixer, **BOTH_STACKS)
    model, tokens, rows = toy.make(config), toy.tokens(0, 3, 6), np.array([2, 0, 0, 1])
    state = forward(model, tokens, model.init_state(3, 8)).state
    state = state._replace(position_B=state.position_B + jnp.arange(3))  # rows at different positions
    got = jax.jit(language.reorder)(state, rows)
    for leaf, want in zip(jax.tree.leaves(got.mixers), jax.tree.leaves(state.mixers), strict=True):
        np.testing.assert_array_equal(leaf, np.asarray(want)[:, rows])
    np.testing.assert_array_equal(got.position_B, np.asarray(state.position_B)[rows])


def test_embeddings_are_scaled_for_the_stack_and_not_for_the_head():
    plain, scaled = (toy.make(toy.model_config(ffn="mlp", num_experts=0, embedding_scale=s)) for s in (1.0, 4.0))
    untied = toy.make(toy.model_config(ffn="mlp", num_experts=0, tied_embeddings=False))
    for part in ("dense_blocks", "final_norm"):
        nnx.update(getattr(untied, part), nnx.state(getattr(plain, part)))
    untied.embedding_WD[...] = 4 * plain.embedding_WD[...]
    untied.head_WD[...] = plain.embedding_WD[...]
    tokens = toy.tokens(0, 2, 8)
    want = forward(untied, tokens).logits_BTW
    reference.assert_close(forward(scaled, tokens).logits_BTW, want, terms=16)


@pytest.mark.parametrize("num_experts", [0, 4])
def test_deepnorm_normalises_after_each_sum_and_never_before(num_experts):
    """x <- norm(alpha x + f(x)) with alpha = (2 L)^(1/4); there is no norm besides."""
    config = toy.model_config(residual="deepnorm", ffn="mlp", num_experts=num_experts, conv_size=1)
    model, tokens = toy.make(config), toy.tokens(0, 2, 8)
    blocks = model.routed_blocks if num_experts else model.dense_blocks
    position = np.broadcast_to(np.arange(8), (2, 8))

    @jax.jit
    def by_hand(model, blocks):
        x = jnp.take(model.embedding_WD[...], tokens, axis=0)
        for i in range(2):
            block = jax.tree.map(lambda leaf, i=i: leaf[i], blocks)
            y, _ = block.mixer(x, jnp.zeros((2, 2, 8, 8)), position)
            x = block.mixer_norm(4**0.25 * x + y)
            x = block.ffn_norm(4**0.25 * x + block.ffn(x)[0])
        return x @ model.embedding_WD[...].T

    want = by_hand(model, blocks)
    reference.assert_close(forward(model, tokens).logits_BTW, want, atol=toy.rounding(want, config, 8))
    assert model.final_norm is None


def test_deepnorm_starts_with_smaller_branches():
    """Values and both matrices of a feed-forward by (8 L)^(-1/4); queries, keys and gates as they are."""
    configs = (toy.model_config(residual=name, ffn="swiglu", num_experts=0) for name in ("deepnorm", "pre_norm"))
    deep, plain = (
        jax.jit(lambda config=config: language.LanguageModel(config, toy.VOCAB_SIZE, rngs=nnx.Rngs(0)))().dense_blocks
        for config in configs
    )
    beta, out = 16**-0.25, 4**-0.5  # of L = 2; "pre_norm" makes the last matrices smaller by out
    ratios = {"query": 1, "key": 1, "gate": 1, "value": beta, "out": beta / out}
    pairs = [(getattr(deep.mixer, name), getattr(plain.mixer, name), ratio) for name, ratio in ratios.items()]
    ratios = {"gate": 1, "up": beta, "down": beta / out}
    pairs += [(getattr(deep.ffn, name), getattr(plain.ffn, name), ratio) for name, ratio in ratios.items()]
    for got, want, ratio in pairs:
        reference.assert_close(got.kernel[...], ratio * np.asarray(want.kernel[...]))


@pytest.mark.parametrize(
    ("mixer", "dispatch"),
    [
        *(("retention", "sorted"), ("attention", "dense")),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in (("retention", "dense"), ("attention", "sorted"))),
    ],
)
def test_a_later_token_changes_no_earlier_logit(mixer, dispatch):
    config = toy.model_config(mixer=mixer, linear="ternary", router__dispatch=dispatch, ffn="swiglu")
    model, tokens = toy.make(config), toy.tokens(0, 2, 12)
    before = np.asarray(forward(model, tokens).logits_BTW)
    for changed in (11, 6, 1):
        other = tokens.copy()
        other[:, changed:] = (other[:, changed:] + 1) % toy.VOCAB_SIZE
        after = np.asarray(forward(model, other).logits_BTW)
        np.testing.assert_array_equal(after[:, :changed], before[:, :changed])
        assert (after[:, changed] != before[:, changed]).any()


def gradient(model, tokens):
    """Of a number that depends on all logits and on the balance."""
    graph, params, rest = nnx.split(model, nnx.Param, ...)

    def total(params):
        output = nnx.merge(graph, params, rest)(tokens)
        return jnp.mean(jnp.sin(output.logits_BTW)) + (0 if output.balance is None else jnp.sum(output.balance.loss))

    return jax.value_and_grad(total)(params)


def equations(jaxpr):
    """All equations, with those inside of loops and other calls."""
    for equation in jaxpr.eqns:
        yield equation
        for inner in core.jaxprs_in_params(equation.params):
            yield from equations(inner)


def count(function, *arguments, primitive=None):
    found = equations(jax.make_jaxpr(function)(*arguments).jaxpr)
    return sum(primitive is None or primitive in equation.primitive.name for equation in found)


def test_remat_computes_blocks_again_and_changes_no_value():
    tokens = toy.tokens(0, 2, 8)
    # Attention and MLPs: retention and KANs have products of their own that are computed again.
    changes = {"mixer": "attention", "ffn": "mlp", "num_experts": 0}
    off, on = (toy.make(toy.model_config(**changes, remat=remat)) for remat in (False, True))
    # Each of a block's products is computed again on the way back.
    assert count(gradient, on, tokens, primitive="dot_general") > count(gradient, off, tokens, primitive="dot_general")
    (value, got), (want_value, want) = (jax.jit(gradient)(model, tokens) for model in (on, off))
    reference.assert_close(value, want_value, atol=toy.rounding(want_value, on.config, 8))
    for got_leaf, want_leaf in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        reference.assert_close(got_leaf, want_leaf, atol=toy.rounding(want_leaf, on.config, 2 * 8))


@pytest.mark.parametrize("mixer", MIXERS)
def test_the_program_does_not_grow_with_depth(mixer):
    def size(num_layers):
        model = toy.make(toy.model_config(mixer=mixer, num_layers=num_layers, ffn="mlp"))
        return count(gradient, model, toy.tokens(0, 2, 8))

    assert size(2) == size(8)


def test_bfloat16_computes_with_float32_parameters_and_logits():
    config = toy.model_config(compute_dtype="bfloat16", ffn="mlp", linear="ternary")
    model, tokens = toy.make(config), toy.tokens(0, 2, 12)
    assert {leaf.dtype for leaf in jax.tree.leaves(nnx.state(model, nnx.Param))} == {np.dtype("float32")}
    kinds = [str(e.outvars[0].aval.dtype) for e in equations(jax.make_jaxpr(forward)(model, tokens).jaxpr) if e.outvars]
    assert kinds.count("bfloat16") > 20
    output = forward(model, tokens)
    assert output.logits_BTW.dtype == jnp.float32
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(output.state.mixers))
    wide = nnx.merge(nnx.graphdef(toy.make(toy.model_config(ffn="mlp", linear="ternary"))), nnx.state(model))
    want = np.asarray(forward(wide, tokens).logits_BTW)
    # Roundings of 2^-9 in every layer, and now and then a flipped code or expert: alike, not equal.
    got = np.asarray(output.logits_BTW)
    assert np.corrcoef(got.ravel(), want.ravel())[0, 1] > 0.97
    assert np.abs(got - want).max() > 0


def test_the_first_layers_are_dense_and_the_others_routed():
    model = toy.make(toy.model_config(num_layers=5, first_dense_layers=2))
    assert model.dense_blocks.ffn.up.base[...].shape == (2, 16, 12)
    assert model.routed_blocks.ffn.experts.up.base[...].shape == (3, 4, 16, 6)
    output = jax.eval_shape(forward, model, toy.tokens(0, 2, 4))
    assert output.balance.load_E.shape == (3, 4)
    assert [leaf.shape[0] for leaf in output.state.mixers] == [2, 3]
    without = toy.make(toy.model_config(num_experts=0))
    assert without.routed_blocks is None
    assert jax.eval_shape(forward, without, toy.tokens(0, 2, 4)).balance is None


def test_the_head_is_the_embedding_only_when_tied():
    tied, untied = (toy.make(toy.model_config(tied_embeddings=tied, num_experts=0)) for tied in (True, False))
    assert tied.head_WD is None
    # A row of the head makes one logit: scaled, it scales that logit alone.
    tokens = toy.tokens(0, 1, 4)
    tokens[tokens == 3] = 4
    want = np.asarray(forward(untied, tokens).logits_BTW)
    scale = jnp.ones((29, 1)).at[3].set(2.0)
    untied.head_WD[...] = untied.head_WD[...] * scale
    got = np.asarray(forward(untied, tokens).logits_BTW)
    reference.assert_close(got, want * np.asarray(scale)[:, 0], terms=16)


def test_initial_logits_are_small_and_sizes_do_not_depend_on_depth():
    """At the start a model knows nothing: its loss is close to that of guessing evenly."""
    config = toy.model_config(ffn="mlp", num_experts=0, num_layers=4)
    model = jax.jit(lambda key: language.LanguageModel(config, toy.VOCAB_SIZE, rngs=nnx.Rngs(key)))(jax.random.key(0))
    logits = np.asarray(forward(model, toy.tokens(0, 4, 12)).logits_BTW, np.float64)
    assert 0 < logits.std() < 0.5
    layers = np.asarray(model.dense_blocks.mixer.query.kernel[...])
    assert (layers[0] != layers[1]).all()
    # Sampling: the standard deviation of n normal numbers is known to 1 / sqrt(2 n).
    for kernel, scale in ((model.dense_blocks.mixer.value, 1.0), (model.dense_blocks.mixer.out, 8**-0.5)):
        weights = np.asarray(kernel.kernel[...])
        want = scale * weights.shape[-2] ** -0.5
        assert abs(weights.std() / want - 1) < 5 / np.sqrt(2 * weights.size)


@pytest.mark.parametrize("tied", [False, True])
def test_parameters_are_counted(tied):
    config = toy.model_config(tied_embeddings=tied, num_layers=3, first_dense_layers=1)
    mixer = 16 * (16 * 4) + 16 * 16  # query, key, value, gate; out
    edge = 1 + 3 + 3  # a silu and the basis functions of each edge
    dense, expert = edge * 2 * 16 * 12, edge * 2 * 16 * 6
    norms = 2 * 16
    routed = mixer + norms + 16 * 4 + 5 * expert  # router; 4 experts and one shared
    convolution = (config.conv_size - 1) * 16
    want = (mixer + norms + dense) + 2 * routed + convolution + 16 + 29 * 16 * (1 if tied else 2)
    counted = {"total": want, "active": want - 2 * 2 * expert, "embedding": 29 * 16 * (1 if tied else 2)}
    assert language.count_parameters(toy.make(config)) == counted
    abstract = jax.eval_shape(lambda: language.LanguageModel(config, toy.VOCAB_SIZE, rngs=nnx.Rngs(0)))
    assert language.count_parameters(abstract) == counted


def test_the_router_bias_moves_towards_an_even_load_and_nothing_else_moves():
    model = toy.make(toy.model_config(num_layers=3, first_dense_layers=1, ffn="mlp"))
    before = nnx.state(model)
    load = jnp.array([[4.0, 0.0, 2.0, 2.0], [1.0, 1.0, 9.0, 1.0]])
    moved = language.update_router_bias(model, load, 0.01)
    want = 0.01 * np.array([[-1, 1, 0, 0], [1, 1, -1, 1]])
    reference.assert_close(moved.routed_blocks.ffn.bias_E[...], want)
    changed = [
        path
        for (path, old), new in zip(
            jax.tree_util.tree_leaves_with_path(before), jax.tree.leaves(nnx.state(moved)), strict=True
        )
        if not np.array_equal(old, new)
    ]
    assert ["bias_E" in str(path) for path in changed] == [True]
    assert not model.routed_blocks.ffn.bias_E[...].any()  # the model that was given is as it was


def test_the_router_bias_sends_tokens_elsewhere():
    model, tokens = toy.make(toy.model_config(ffn="mlp")), toy.tokens(0, 4, 12)
    load = forward(model, tokens).balance.load_E
    for _ in range(60):
        model = language.update_router_bias(model, forward(model, tokens).balance.load_E, 0.01)

    def spread(load):
        return np.asarray(load).max(axis=-1) - np.asarray(load).min(axis=-1)

    assert (spread(forward(model, tokens).balance.load_E) < spread(load) / 2).all()


def test_a_model_on_a_finer_grid_is_the_same_model():
    """Inputs outside the grid are clamped, since a fading spline fades faster on a finer grid."""
    config = toy.model_config(kan__grid__extrapolation="clamp", first_dense_layers=1, kan__grid__degree=1)
    model = toy.make(config)
    finer = jax.jit(grid.extend_grid, static_argnums=1)(model, 6)
    assert finer.config.kan.grid.num_intervals == 6
    assert model.config.kan.grid.num_intervals == 3
    tokens = toy.tokens(0, 2, 7)
    want = forward(model, tokens)
    got = forward(finer, tokens)
    reference.assert_close(got.logits_BTW, want.logits_BTW, atol=4 * toy.rounding(want.logits_BTW, config, 7))
    reference.assert_close(got.outside_L, want.outside_L, atol=0.0)
    assert got.outside_L.shape == (2,)
    assert (got.outside_L >= 0).all()
    assert (got.outside_L < 0.1).all()


@pytest.mark.slow
def test_padding_is_no_input_of_any_grid():
    """The share of a batch with padding is that of its tokens, in dense blocks and in routed ones."""
    narrow = {"kan__grid__low": -1.0, "kan__grid__high": 1.0, "kan__grid__degree": 1}
    model = toy.make(toy.model_config(mixer="attention", first_dense_layers=1, **narrow))
    tokens = toy.tokens(0, 2, 6)
    want = forward(model, tokens).outside_L
    assert (want > 0.1).all()
    segment_ids = np.pad(np.ones((2, 6), np.int32), ((0, 0), (0, 3)))
    packed = np.pad(tokens, ((0, 0), (0, 3)), constant_values=7)
    reference.assert_close(forward(model, packed, segment_ids=segment_ids).outside_L, want)
    np.testing.assert_array_equal(forward(model, packed, segment_ids=0 * segment_ids).outside_L, [0, 0])


def test_what_has_no_splines_has_no_finer_grid_and_no_share_outside_of_it():
    model = toy.make(toy.model_config(ffn="mlp"))
    with pytest.raises(ValueError, match="ffn='mlp' has no splines"):
        grid.extend_grid(model, 6)
    for config in (model.config, toy.model_config(kan__basis="rational")):
        assert jax.eval_shape(forward, toy.make(config), toy.tokens(0, 2, 4)).outside_L is None


@pytest.mark.slow  # kernels that are interpreted compile slowly
@pytest.mark.parametrize("dispatch", ["sorted", "dense"])
def test_the_kernels_give_the_same_model_to_rounding(dispatch):
    tokens = toy.tokens(0, 2, 8)
    off, on = (toy.make(toy.model_config(router__dispatch=dispatch, backend=backend)) for backend in ("auto", "pallas"))
    assert count(lambda model: model(tokens), off, primitive="pallas") == 0
    assert count(lambda model: model(tokens), on, primitive="pallas") > 0
    (value, got), (want_value, want) = (jax.jit(gradient)(model, tokens) for model in (on, off))
    reference.assert_close(value, want_value, atol=toy.rounding(want_value, on.config, 8))
    for got_leaf, want_leaf in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        reference.assert_close(got_leaf, want_leaf, atol=toy.rounding(want_leaf, on.config, 2 * 8))
