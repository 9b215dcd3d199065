import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mixkabrn_jax.layers.branch import BranchConfig
from mixkabrn_jax.layers.kan import Kan
from mixkabrn_jax.layers.mlp import Glu, Mlp
from mixkabrn_jax.layers.moe import DISPATCHES, MixtureOfExperts, MoeConfig, RouterConfig
from tests import reference, toy

D, E, B, T = 8, 6, 2, 7
ROUTERS = {
    "softmax": {"normalize": False, "scale": 2.5, "experts_per_token": 3},
    "sigmoid in groups": {"score": "sigmoid", "num_groups": 3, "groups_per_token": 2},
}


def make(num_shared=1, linear="dense", experts_per_token=2, make_experts=None, **router):
    config = MoeConfig(E, experts_per_token, num_shared, RouterConfig(**({"normalize": True} | router)))
    make_experts = make_experts or functools.partial(Mlp, D, 5, BranchConfig(linear))
    moe = MixtureOfExperts(D, config, make_experts, rngs=nnx.Rngs(0))
    moe.bias_E[...] = 0.2 * jnp.asarray(reference.normal(9, E))
    return moe


def reroute(moe, **changes):
    """Gives a mixture another router config, with the same parameters."""
    moe.config = dataclasses.replace(moe.config, router=dataclasses.replace(moe.config.router, **changes))


def choices(moe, x):
    """The float64 oracle's experts of each token."""
    logits = np.asarray(x, np.float64) @ np.asarray(moe.router[...], np.float64)
    options = dataclasses.asdict(moe.config.router)
    for name in ("device_groups", "dispatch", "capacity_factor"):
        options.pop(name)
    return reference.top_k_gates(logits, moe.config.experts_per_token, bias=moe.bias_E[...], **options)[1]


def token_by_token(moe, x_BTD, indices_BTN, mask_BT):
    """The definition: for each token alone its experts and gates and the shared experts; and the balance loss."""
    config, x_TD = moe.config, x_BTD.reshape(-1, D)
    indices_TN = indices_BTN.reshape(-1, config.experts_per_token)

    def one(token):
        x_D, chosen_N = token
        logits_E = x_D @ moe.router[...]
        score_E = jax.nn.softmax(logits_E) if config.router.score == "softmax" else jax.nn.sigmoid(logits_E)
        total = sum(score_E[e] for e in chosen_N) if config.router.normalize else 1.0
        y_1D = jnp.zeros((1, D)) if moe.shared is None else moe.shared(x_D[None])[0]
        for e in chosen_N:
            expert = jax.tree.map(lambda a, e=e: a[e], moe.experts)
            y_1D = y_1D + config.router.scale * score_E[e] / total * expert(x_D[None])[0]
        return y_1D[0], score_E / jnp.sum(score_E)

    y_TD, share_TE = jax.lax.map(one, (x_TD, indices_TN))
    counts = np.asarray(mask_BT).reshape(-1) > 0
    loss = 0.0
    for e in range(config.num_experts):
        frequency = config.num_experts * (indices_TN[counts] == e).mean()
        loss = loss + frequency * jnp.mean(share_TE[counts, e])
    return y_TD.reshape(x_BTD.shape), loss


def value_and_gradients(run, moe, x, out_bar):
    """Of <out_bar, y> + 0.7 balance loss, with respect to every parameter and the input."""
    graph, params, rest = nnx.split(moe, nnx.Param, ...)

    def total(params, x):
        y, loss = run(nnx.merge(graph, params, rest), x)
        return jnp.sum(y * out_bar) + 0.7 * loss, (y, loss)

    (_, (y, loss)), gradients = jax.jit(jax.value_and_grad(total, argnums=(0, 1), has_aux=True))(params, x)
    return y, loss, gradients


@pytest.mark.parametrize("name", ROUTERS)
def test_both_dispatches_are_the_loop_over_tokens_in_values_and_gradients(name):
    x, out_bar = reference.normal(1, B, T, D), reference.normal(2, B, T, D)
    mask = np.ones((B, T), np.float32)
    mask[1, 4:] = 0
    moe = make(**ROUTERS[name])
    indices = choices(moe, x)
    assert len(np.unique(indices)) > 2
    want = value_and_gradients(lambda moe, x: token_by_token(moe, x, indices, mask), moe, x, out_bar)

    def run(moe, x):
        y, balance, _ = moe(x, mask)
        return y, balance.loss

    # Gradients are sums over tokens, of what comes back through the experts and, for the router, the gates.
    forward = 2 * D + 2 * 5 + moe.config.num_experts
    for dispatch in DISPATCHES:
        moe = make(**ROUTERS[name], dispatch=dispatch)
        got = value_and_gradients(run, moe, x, out_bar)
        reference.assert_close(got[0], want[0], terms=forward)
        reference.assert_close(got[1], want[1], terms=B * T)
        for leaf, want_leaf in zip(jax.tree.leaves(got[2]), jax.tree.leaves(want[2]), strict=True):
            reference.assert_close(leaf, want_leaf, terms=B * T * forward)


def test_a_shared_expert_of_another_number_format_keeps_it():
    """All experts run as one stack where they are alike; what `models.quantize` has set apart is not."""
    x, moe = reference.normal(1, B, T, D), make(dispatch="dense")
    for layer in (moe.shared.up, moe.shared.down):
        layer.config = dataclasses.replace(layer.config, linear="ternary")
    indices, mask = choices(moe, x), np.ones((B, T), np.float32)
    want = token_by_token(moe, x, indices, mask)[0]
    reference.assert_close(jax.jit(moe)(x)[0], want, terms=2 * D + 2 * 5 + moe.config.num_experts)


def test_quantised_experts_keep_a_scale_each_in_both_dispatches(monkeypatch):
    # Codes of activations may flip where two orders of a sum differ by one rounding: here they are not rounded.
    monkeypatch.setattr("mixkabrn_jax.ops.ternary.fake_quant_activation", lambda x, bits: x)  # noqa: ARG005
    x = reference.normal(1, B, T, D)
    indices = choices(make(), x)
    outputs = []
    for dispatch in DISPATCHES:
        moe = make(dispatch=dispatch, linear="ternary")
        for part in (moe.experts.up, moe.experts.down):
            part.kernel[...] = part.kernel[...] * np.geomspace(0.1, 10, E, dtype=np.float32).reshape(E, 1, 1)
        outputs.append(jax.jit(lambda moe, x: moe(x)[0])(moe, x))
    want, _ = jax.jit(lambda moe, x: token_by_token(moe, x, indices, np.ones((B, T))))(moe, x)
    for got in outputs:
        reference.assert_close(got, want, terms=2 * (D + 5))


def test_shared_experts_are_added_whatever_the_routing_each_with_its_own_scales():
    x = reference.normal(1, B, T, D)
    moe, alone = make(num_shared=2, linear="ternary"), make(num_shared=0, linear="ternary")
    assert moe.shared.up.kernel[...].shape == (2, D, 5)
    smaller = jnp.array([1.0, 1 / 64]).reshape(2, 1, 1)  # under one scale all of its codes would be 0
    moe.shared.up.kernel[...] = moe.shared.up.kernel[...] * smaller

    @jax.jit
    def run(moe, alone, x):
        one_by_one = [jax.tree.map(lambda leaf, i=i: leaf[i], moe.shared)(x)[0] for i in range(2)]
        return moe(x)[0], alone(x)[0], jnp.stack(one_by_one)

    got, routed, shared = run(moe, alone, x)
    reference.assert_close(got, np.asarray(routed) + np.asarray(shared).sum(axis=0), terms=2 * D + 20)
    assert (np.abs(shared).max(axis=(1, 2, 3)) > 0.1).all()


@pytest.mark.parametrize("score", ["softmax", "sigmoid"])
def test_padding_is_left_out_of_the_load_and_the_balance_loss(score):
    moe = make(score=score)
    x = reference.normal(1, B, T, D)
    mask = np.ones((B, T), np.float32)
    mask[0, 5:] = mask[1, 2:] = 0
    run = jax.jit(lambda moe, x, mask: moe(x, mask)[1])
    everything, counted = run(moe, x, None), run(moe, x, mask)
    assert everything.load_E.sum() == B * T * 2
    assert counted.load_E.sum() == mask.sum() * 2
    indices = choices(moe, x)
    want = [(indices[mask > 0] == e).sum() for e in range(E)]
    np.testing.assert_array_equal(counted.load_E, want)
    logits = np.asarray(x, np.float64) @ np.asarray(moe.router[...], np.float64)
    scores = reference.softmax(logits) if score == "softmax" else reference.sigmoid(logits)
    reference.assert_close(counted.loss, reference.balance_loss(scores, indices, mask), terms=B * T)
    reference.assert_close(everything.loss, reference.balance_loss(scores, indices), terms=B * T)
    other = np.where(mask[..., None] > 0, x, 7.0).astype(np.float32)
    np.testing.assert_array_equal(run(moe, other, mask).load_E, counted.load_E)


@pytest.mark.parametrize("dispatch", DISPATCHES)
def test_an_expert_without_tokens_has_gradients_of_zero(dispatch):
    moe = make(dispatch=dispatch)
    moe.bias_E[...] = jnp.zeros(E).at[2].set(-9.0)
    x, out_bar = reference.normal(1, B, T, D), reference.normal(2, B, T, D)

    def run(moe, x):
        y, balance, _ = moe(x)
        return y, balance.loss

    assert (choices(moe, x) != 2).all()
    _, _, (params, x_bar) = value_and_gradients(run, moe, x, out_bar)
    for leaf in jax.tree.leaves((params, x_bar)):
        assert np.isfinite(leaf).all()
    for leaf in jax.tree.leaves(params["experts"]):
        assert not leaf[2].any()
        assert leaf[0].any()


def test_the_router_reads_float32_whatever_the_compute_dtype():
    """Scores of two experts that bfloat16 cannot tell apart are told apart."""
    moe = make(num_shared=0, experts_per_token=1)
    moe.bias_E[...] = jnp.zeros(E)
    router = np.zeros((D, E), np.float32)
    router[0] = [1.0, 1.001, 0.5, 0.5, 0.5, 0.5]  # 1.001 is 1 in bfloat16
    moe.router[...] = jnp.asarray(router)
    y, balance, _ = jax.jit(lambda moe, x: moe(x))(moe, jnp.ones((1, 3, D), jnp.bfloat16))
    assert y.dtype == jnp.bfloat16
    np.testing.assert_array_equal(balance.load_E, [0, 3, 0, 0, 0, 0])


def test_choices_beyond_the_capacity_are_dropped_and_counted():
    x, out_bar = reference.normal(1, B, T, D), reference.normal(2, B, T, D)
    mask = np.ones((B, T), np.float32)
    mask[0, 5:] = 0
    moe = make(num_shared=0, capacity_factor=0.8)
    indices = choices(moe, x)
    kept = reference.within_capacity(indices.reshape(-1, 2), E, 4, mask.reshape(-1)).reshape(indices.shape)
    assert 0 < kept[mask > 0].sum() < kept[mask > 0].size
    indices_TN, kept_TN = indices.reshape(-1, 2), kept.reshape(-1, 2)

    def definition(moe, x):
        def one(token):
            x_D, chosen_N, kept_N = token
            score_E = jax.nn.softmax(x_D @ moe.router[...])
            y_1D, total = jnp.zeros((1, D)), sum(score_E[e] for e in chosen_N)  # gates of dropped choices are lost
            for e, is_kept in zip(chosen_N, kept_N, strict=True):
                expert = jax.tree.map(lambda a, e=e: a[e], moe.experts)
                y_1D = y_1D + is_kept * score_E[e] / total * expert(x_D[None])[0]
            return y_1D[0]

        y_TD = jax.lax.map(one, (x.reshape(-1, D), indices_TN, kept_TN))
        return y_TD.reshape(x.shape), 0.0

    def run(moe, x):
        y, balance, _ = moe(x, mask)
        return y, balance.dropped

    want = value_and_gradients(definition, moe, x, out_bar)
    forward = 2 * D + 2 * 5 + E
    for dispatch in DISPATCHES:
        reroute(moe, dispatch=dispatch)
        got = value_and_gradients(run, moe, x, out_bar)
        reference.assert_close(got[0], want[0], terms=forward)
        for leaf, want_leaf in zip(jax.tree.leaves(got[2]), jax.tree.leaves(want[2]), strict=True):
            reference.assert_close(leaf, want_leaf, terms=B * T * forward)
        reference.assert_close(got[1], 1 - kept[mask > 0].mean())


@pytest.mark.parametrize(
    ("num_shared", "capacity_factors"),
    [(1, (0.0, 0.8, float(E))), pytest.param(2, (0.0,), marks=pytest.mark.slow)],
)
def test_inputs_outside_the_grid_count_where_a_token_chose_the_expert(num_shared, capacity_factors):
    """Not in empty rows, not at padding, not for dropped choices, not where dense dispatch runs the others."""
    x = reference.normal(1, B, T, D)
    mask = np.ones((B, T), np.float32)
    mask[0, 4:] = 0
    make_experts = functools.partial(Kan, D, 5, toy.kan(-1.0, 1.0, 3, 1), BranchConfig("dense"))
    moe = make(num_shared, make_experts=make_experts)
    indices_TN = choices(moe, x).reshape(-1, 2)

    @jax.jit
    def off_grid(experts, x_TD):
        def one(expert):
            return sum(jnp.sum(jnp.abs(part) > 1, axis=-1) for part in (x_TD, expert.hidden(x_TD)))

        return jax.vmap(one)(experts)

    several = jax.tree.map(lambda leaf: leaf[None], moe.shared) if num_shared == 1 else moe.shared
    off_grid_ET, shared_ET = (np.asarray(off_grid(experts, x.reshape(-1, D))) for experts in (moe.experts, several))
    forward = jax.jit(lambda moe, x, mask: (moe(x, mask)[2], moe.chosen(x, mask)))
    seen = set()
    for capacity_factor in capacity_factors:
        capacity = 4 if capacity_factor == 0.8 else B * T
        given, counts_T = (None, np.ones(B * T)) if num_shared == 2 else (mask, mask.reshape(-1))
        kept_TN = reference.within_capacity(indices_TN, E, capacity, counts_T)
        off, inputs = 0, 0
        for t, n in zip(*np.nonzero(kept_TN), strict=True):
            off, inputs = off + off_grid_ET[indices_TN[t, n], t], inputs + D + 5
        want = (off + (shared_ET * counts_T).sum(), inputs + num_shared * counts_T.sum() * (D + 5))
        chosen_ET = [(kept_TN & (indices_TN == e)).any(axis=1) for e in range(E)]
        for dispatch in DISPATCHES:
            reroute(moe, dispatch=dispatch, capacity_factor=capacity_factor)
            outside, chosen = forward(moe, x, given)
            assert outside == want
            np.testing.assert_array_equal(chosen, chosen_ET)
        seen.add(want)
    assert len(seen) == (2 if num_shared == 1 else 1)  # a capacity for all is as none


@pytest.mark.parametrize("dispatch", DISPATCHES)
def test_a_capacity_shows_no_token_a_later_one(dispatch):
    moe = make(dispatch=dispatch, capacity_factor=0.5)
    run = jax.jit(lambda moe, x: moe(x)[0])
    x = reference.normal(1, 1, 12, D)
    before = run(moe, x)
    for changed in (11, 6, 1):
        other = x.copy()
        other[:, changed:] = reference.normal(7, 1, 12 - changed, D)
        np.testing.assert_array_equal(run(moe, other)[:, :changed], before[:, :changed])


def test_all_losses_are_those_of_the_router_s_scores():
    moe = make(device_groups=3)
    x = reference.normal(1, B, T, D)
    mask = np.ones((B, T), np.float32)
    mask[1, 2:] = 0
    balance = jax.jit(lambda moe, x, mask: moe(x, mask)[1])(moe, x, mask)
    indices = choices(moe, x)
    logits = np.asarray(x, np.float64) @ np.asarray(moe.router[...], np.float64)
    scores = reference.softmax(logits)
    best = np.argsort(-scores, axis=-1)[..., :2]  # whoever the bias has chosen
    assert (np.sort(best) != np.sort(indices)).any()
    reference.assert_close(balance.sequence_loss, reference.sequence_balance_loss(scores, best, mask), terms=B * T)
    reference.assert_close(balance.device_loss, reference.device_balance_loss(scores, indices, 3, mask), terms=B * T)
    reference.assert_close(balance.z_loss, reference.z_loss(logits, mask), terms=B * T)


# --- DeepSeek's blocks -------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(("score", "dispatch"), [("softmax", "sorted"), ("sigmoid", "dense")])
def test_a_whole_block_is_deepseeks(score, dispatch):
    z = reference.golden(f"moe_{score}")
    width = z["param/experts.down_proj"].shape[-1]
    num_experts, d_model = z["param/gate.weight"].shape
    router = RouterConfig(
        score=score,
        num_groups=int(z["n_group"]),
        groups_per_token=int(z["topk_group"]),
        normalize=bool(z["norm_topk_prob"]),
        scale=float(z["routed_scaling_factor"]),
        dispatch=dispatch,
    )
    num_shared = z["param/shared_experts.up_proj.weight"].shape[0] // width
    make_experts = functools.partial(Glu, d_model, width, "swiglu", BranchConfig("dense", sub_norm=False))
    config = MoeConfig(num_experts, int(z["top_k"]), num_shared, router)
    moe = MixtureOfExperts(d_model, config, make_experts, rngs=nnx.Rngs(0))
    moe.router = nnx.Param(jnp.array(z["param/gate.weight"].T, jnp.float32))  # the peer's router is float32 too
    if score == "sigmoid":
        moe.bias_E[...] = jnp.array(z["param/gate.e_score_correction_bias"], jnp.float32).astype(moe.bias_E[...].dtype)
    gate_EFD, up_EFD = np.split(z["param/experts.gate_up_proj"], 2, axis=1)
    down_EDF = z["param/experts.down_proj"]
    for part, peer in ((moe.experts.gate, gate_EFD), (moe.experts.up, up_EFD), (moe.experts.down, down_EDF)):
        part.kernel = nnx.Param(jnp.array(peer.swapaxes(1, 2)))
    for name in ("gate", "up", "down"):
        fused = z[f"param/shared_experts.{name}_proj.weight"].T
        parts = np.split(fused, num_shared, axis=0 if name == "down" else 1)
        getattr(moe.shared, name).kernel = nnx.Param(jnp.array(np.stack(parts) if len(parts) > 1 else fused))
    y, balance, _ = jax.jit(lambda moe, x: moe(x))(moe, jnp.array(z["x"]))
    assert y.dtype == jnp.float64
    reference.assert_close(y, z["y"], atol=1e-6 * np.abs(z["y"]).max())
    np.testing.assert_array_equal(balance.load_E, np.bincount(z["topk_indices"].ravel(), minlength=num_experts))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"experts_per_token": 0}, "experts_per_token=0"),
        ({"experts_per_token": 7}, "experts_per_token=7"),
        ({"num_groups": 4}, r"router\.num_groups=4 does not divide num_experts=6"),
        ({"device_groups": 5}, r"router\.device_groups=5 does not divide num_experts=6"),
        ({"num_groups": 2, "groups_per_token": 3}, "groups_per_token=3"),
        ({"num_shared": -1}, "num_shared_experts=-1"),
        ({"score": "tanh"}, "score='tanh': one of"),
        ({"dispatch": "random"}, "dispatch='random': one of"),
        ({"capacity_factor": -1.0}, "capacity_factor=-1.0"),
        ({"scale": 0.0}, "scale=0.0: more than 0"),
    ],
)
def test_a_routing_that_cannot_be_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        make(**changes)
