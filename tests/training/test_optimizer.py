import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mixkabrn_jax.layers import refinement
from mixkabrn_jax.layers.branch import BranchConfig
from mixkabrn_jax.layers.kan import Kan
from mixkabrn_jax.training import optimizer
from mixkabrn_jax.training.optimizer import OptimizerConfig
from tests import reference, toy

PUBLISHED = {
    "schedule": "two_stage",
    "peak_rate": 1.5e-3,
    "second_peak_rate": 1e-3,
    "final_fraction": 0.02,
    "warmup_steps": 0,
    "weight_decay": 0.1,
}


def config(**changes):
    return OptimizerConfig(**toy.section("optimizer", **changes))


def rates(steps, num_steps, **changes):
    return np.asarray(jax.jit(jax.vmap(optimizer.learning_rate(config(**changes), num_steps)))(np.asarray(steps)))


def test_the_two_stages_pass_through_their_published_points():
    got = rates([0, 499, 500, 1000], 1000, **PUBLISHED)
    end = 0.02 * 1.5e-3
    one_step = (1.5e-3 - end) / 1000
    reference.assert_close(got, [1.5e-3, 7.65e-4 + one_step, 5.15e-4, end], terms=4)


def test_weight_decay_is_exactly_zero_in_the_second_stage():
    decay = jax.jit(jax.vmap(optimizer.weight_decay(config(**PUBLISHED), 1000)))
    np.testing.assert_array_equal(decay(jnp.array([0, 499, 500, 999])), np.float32([0.1, 0.1, 0, 0]))
    for schedule in ("cosine", "wsd"):
        decay = optimizer.weight_decay(config(**(PUBLISHED | {"schedule": schedule})), 1000)
        assert float(decay(999)) == np.float32(0.1)


def test_cosine_goes_from_the_peak_to_the_end():
    got = rates([0, 250, 500, 1000], 1000, **(PUBLISHED | {"schedule": "cosine"}))
    end = 0.02 * 1.5e-3
    quarter = end + (1.5e-3 - end) * (1 + np.cos(np.pi / 4)) / 2
    reference.assert_close(got, [1.5e-3, quarter, (1.5e-3 + end) / 2, end], terms=4)


def test_wsd_is_constant_and_then_a_line_to_the_end():
    options = PUBLISHED | {"schedule": "wsd", "decay_fraction": 0.2}
    got = rates([0, 400, 800, 900, 1000], 1000, **options)
    end = 0.02 * 1.5e-3
    reference.assert_close(got, [1.5e-3, 1.5e-3, 1.5e-3, (1.5e-3 + end) / 2, end], terms=4)


@pytest.mark.parametrize("schedule", optimizer.SCHEDULES)
def test_warmup_is_a_line_from_the_first_update_on(schedule):
    options = PUBLISHED | {"schedule": schedule, "warmup_steps": 10}
    got = rates([0, 4, 9, 10], 1000, **options)
    reference.assert_close(got[:3] / got[3], [0.1, 0.5, 1.0], terms=4)
    assert got[3] == np.float32(1.5e-3)


@pytest.mark.parametrize("schedule", optimizer.SCHEDULES)
def test_a_rate_is_finite_and_positive_for_any_number_of_steps(schedule):
    for num_steps in (1, 2, 3):
        got = rates(range(num_steps), num_steps, schedule=schedule, warmup_steps=2, decay_fraction=0.0)
        assert np.isfinite(got).all()
        assert (got > 0).all()


@pytest.mark.parametrize(
    "changes",
    [
        {"tied_embeddings": False, "first_dense_layers": 1},
        {"retention__decay": "gated", "retention__normalization": "none", "num_experts": 0, "num_layers": 1},
        {"retention__decay": "learned", "kan__basis": "rational", "num_experts": 0, "num_layers": 1},
    ],
)
def test_weight_decay_takes_every_matrix_and_spares_scales_decays_and_rational_functions(changes):
    params = nnx.state(toy.make(toy.model_config(**changes)), nnx.Param)
    wsd = optimizer.make(config(**(PUBLISHED | {"schedule": "wsd"})), 1000)
    zeros = jax.tree.map(jnp.zeros_like, params)
    updates, _ = jax.jit(wsd.update)(zeros, wsd.init(params), params)
    spared = []
    for (path, update), param in zip(
        jax.tree_util.tree_leaves_with_path(updates), jax.tree.leaves(params), strict=True
    ):
        name = str(path)
        is_spared = any(part in name for part in ("scale", "decay_logit", "numerator", "denominator", "weight_CD"))
        spared += [name] if is_spared else []
        reference.assert_close(update, 0 * param if is_spared else -1.5e-3 * 0.1 * np.asarray(param), terms=4)
    assert 0 < len(spared) < len(jax.tree.leaves(params)) / 2
    assert any("decay_gate" in str(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)) == (
        changes.get("retention__decay") == "gated"
    )


@pytest.mark.parametrize("size", [0.01, 1.0])
def test_updates_are_those_of_adamw_behind_a_clip_of_the_global_norm(size):
    """Loshchilov and Hutter 2019, algorithm 2; the large epsilon lets the size of gradients show."""
    options = {"schedule": "wsd", "epsilon": 0.1, "clip_norm": 0.5, "weight_decay": 0.1, "warmup_steps": 3}
    adamw, steps = optimizer.make(config(**options), 10), rates(range(4), 10, **options).astype(np.float64)
    params = {"kernel": reference.normal(0, 4, 3), "scale_D": reference.normal(1, 5)}
    decay = {"kernel": 0.1, "scale_D": 0.0}
    state, update = adamw.init(params), jax.jit(adamw.update)
    want = {name: value.astype(np.float64) for name, value in params.items()}
    first, second = ({name: np.zeros(value.shape) for name, value in params.items()} for _ in range(2))
    for t in range(4):
        grads = {name: size * reference.normal(10 * t + 2, *value.shape) for name, value in params.items()}
        norm = np.sqrt(sum((value.astype(np.float64) ** 2).sum() for value in grads.values()))
        assert (norm > 0.5) == (size == 1.0)
        updates, state = update(grads, state, params)
        params = {name: params[name] + updates[name] for name in params}
        for name, grad in grads.items():
            grad = grad.astype(np.float64) * min(1, 0.5 / norm)
            first[name] = 0.9 * first[name] + 0.1 * grad
            second[name] = 0.95 * second[name] + 0.05 * grad**2
            direction = first[name] / (1 - 0.9 ** (t + 1)) / (np.sqrt(second[name] / (1 - 0.95 ** (t + 1))) + 0.1)
            want[name] -= steps[t] * (direction + decay[name] * want[name])
        for name in params:
            reference.assert_close(params[name], want[name], terms=4 * (t + 1))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("shape", [(3, 5), (5, 3), (9, 4, 4), (2, 3, 6, 2)])
def test_muon_sets_the_singular_values_of_each_matrix_of_a_stack_and_adam_trains_the_rest(shape):
    """Jordan et al. 2024, with the size of Liu et al. 2025."""
    options = {"schedule": "wsd", "clip_norm": 1e9, "weight_decay": 0.0, "warmup_steps": 0, "peak_rate": 1.0}
    options["momentum"] = 0.8
    both, adam = (optimizer.make(config(matrices=matrices, **options), 100) for matrices in ("muon", "adamw"))
    params = {"blocks": {"kernel": np.zeros(shape), "scale_D": np.zeros(4), "router": np.zeros((4, 2))}}
    params |= {"embedding_WD": np.zeros((7, 4)), "head_WD": np.zeros((7, 4))}
    state, adam_state, grads = both.init(params), adam.init(params), []
    for t in range(3):
        leaves, tree = jax.tree.flatten(params)
        grads.append(
            tree.unflatten([reference.normal(10 * t + i, *leaf.shape, dtype=float) for i, leaf in enumerate(leaves)])
        )
        updates, state = jax.jit(both.update)(grads[-1], state, params)
        want, adam_state = jax.jit(adam.update)(grads[-1], adam_state, params)
    got = -np.asarray(updates["blocks"].pop("kernel")).reshape(-1, *shape[-2:])
    del want["blocks"]["kernel"]
    for leaf, want_leaf in zip(jax.tree.leaves(updates), jax.tree.leaves(want), strict=True):
        np.testing.assert_array_equal(leaf, want_leaf)
    stacks = [grad["blocks"]["kernel"].reshape(got.shape) for grad in grads]
    for matrix, *gradients in zip(got, *stacks, strict=True):
        np.testing.assert_allclose(matrix, reference.muon(gradients, 0.8), rtol=0, atol=1e-6)
        singular = np.linalg.svd(matrix, compute_uv=False) / (0.2 * max(shape[-2:]) ** 0.5)
        assert np.median(singular) > 0.5
        assert singular.max() < 1.5


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(("side", "size"), [("rows", 3), ("columns", 2)])
def test_muon_takes_heads_and_basis_functions_apart(side, size):
    both = optimizer.make(config(matrices="muon", schedule="wsd", weight_decay=0.0, warmup_steps=0, peak_rate=1.0), 100)
    grad = reference.normal(0, 2, 6, 4, dtype=float)
    whole, parts = nnx.Param(jnp.array(grad), letters="DF"), nnx.Param(jnp.array(grad), letters="DF", **{side: size})
    (of_whole, _), (of_parts, _) = (
        both.update({"kernel": a}, both.init({"kernel": a}), {"kernel": a}) for a in (whole, parts)
    )
    got = -np.asarray(of_parts["kernel"][...])
    axis = 1 if side == "rows" else 2
    for matrix, gradient in zip(got, grad, strict=True):
        cuts = range(size, grad.shape[axis], size)
        apart = [np.split(a, list(cuts), axis=axis - 1) for a in (matrix, gradient)]
        for one, its_gradient in zip(*apart, strict=True):
            np.testing.assert_allclose(one, reference.muon([its_gradient], 0.95), rtol=0, atol=1e-6)
    assert np.abs(got + np.asarray(of_whole["kernel"][...])).max() > 0.01


def test_heads_and_basis_functions_say_how_large_they_are():
    model = toy.make(toy.model_config(num_heads=2, key_width=4, value_width=6, num_experts=2, ffn="kan"))
    block = model.routed_blocks
    for layer, columns in (("query", 4), ("key", 4), ("value", 6), ("gate", 6)):
        assert getattr(block.mixer, layer).kernel.get_metadata("columns") == columns
    assert block.mixer.out.kernel.get_metadata("rows") == 6
    for experts in (block.ffn.experts, block.ffn.shared):
        assert experts.up.spline.get_metadata("rows") == model.config.d_model
        assert experts.down.spline.get_metadata("rows") == model.config.expert_width


def test_muon_trains_every_matrix_of_the_layers_and_nothing_else():
    params = nnx.state(toy.make(toy.model_config(tied_embeddings=False, first_dense_layers=1)), nnx.Param)
    state = optimizer.make(config(matrices="muon"), 10).init(params)[1].inner_states

    def names(moments):
        return {jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(moments)}

    matrices, rest = (names(state[name].inner_state) for name in ("muon", "adam"))
    assert not {name for name in matrices if any(part in name for part in ("embedding", "head", "router", "scale"))}
    everything = names(params)
    mean_of = {name for name in everything if any(found.endswith(f".trace{name}") for found in matrices)}
    assert {name.split("'")[-2] for name in mean_of} == {"kernel", "base", "spline"}
    assert mean_of == {name for name in everything if name.split("'")[-2] in ("kernel", "base", "spline")}
    assert {name for name in everything if any(found.endswith(f".mu{name}") for found in rest)} == everything - mean_of


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(
            ("schedule", "constant"),
            ("matrices", "sgd"),
            ("momentum", 1.0),
            ("peak_rate", 0.0),
            ("second_peak_rate", -1.0),
            ("epsilon", 0.0),
        ),
        *(("clip_norm", 0.0), ("final_fraction", 1.1), ("decay_fraction", -0.1), ("b1", 1.5), ("b2", -0.5)),
        *(("warmup_steps", -1), ("weight_decay", -0.1), ("peak_rate", float("nan"))),
        *(("b1", 1.0), ("clip_norm", float("inf")), ("weight_decay", float("nan"))),
    ],
)
def test_a_field_that_cannot_be_is_named_and_no_other(field, value):
    with pytest.raises(ValueError, match=rf"^config\.optimizer\.{field}=[^=]* needed$"):
        config(**{field: value})


def test_training_goes_on_smoothly_on_a_finer_grid_with_its_moments_carried():
    grid = toy.kan(-2.0, 2.0, 4, 2, extrapolation="clamp")
    kan = Kan(2, 6, grid, BranchConfig(linear="dense", sub_norm=False, scales=(1.0, 1.0)), rngs=nnx.Rngs(0))
    x = reference.normal(1, 128, 2)
    y = np.sin(2 * x[:, ::-1]) * x
    adamw = optimizer.make(config(schedule="cosine", peak_rate=1e-2, weight_decay=0.0), 400)
    change = jax.jit(lambda kan: extended(kan, 8))

    def train(kan, state, steps):
        graph, params, rest = nnx.split(kan, nnx.Param, ...)
        state = adamw.init(params) if state is None else state

        @jax.jit
        def update(params, state):
            def loss(params):
                return jnp.mean((nnx.merge(graph, params, rest)(x)[0] - y) ** 2)

            value, grads = jax.value_and_grad(loss)(params)
            updates, state = adamw.update(grads, state, params)
            return jax.tree.map(jnp.add, params, updates), state, value

        losses = []
        for _ in range(steps):
            params, state, value = update(params, state)
            losses.append(float(value))
        return nnx.merge(graph, params, rest), state, losses

    kan, state, before = train(kan, None, 60)
    graph, _, rest = nnx.split(kan, nnx.Param, ...)

    def change_params(params):
        return nnx.split(change(nnx.merge(graph, params, rest)), nnx.Param, ...)[1]

    finer = change(kan)
    carried = optimizer.carry_moments(state, change_params)
    shapes = jax.tree.map(jnp.shape, adamw.init(nnx.split(finer, nnx.Param, ...)[1]))
    assert jax.tree.map(jnp.shape, carried) == shapes
    moments = carried[1]
    assert moments.count == state[1].count
    assert all(np.isfinite(mu).all() for mu in jax.tree.leaves(moments.mu))
    assert all((np.asarray(nu) >= 0).all() for nu in jax.tree.leaves(moments.nu))
    _, _, after = train(finer, carried, 60)
    # The first 60 steps went down, and the next are none back: the finer grid holds the same function, and the first
    # update on it is the one that would have been next.
    assert before[-1] < 0.5 * before[0]
    assert all(np.diff([*before[-10:], *after]) < 0.01 * before[-1])
    assert after[-1] < 0.9 * before[-1]


def extended(kan, num_intervals):
    new = nnx.clone(kan)
    new.up = refinement.extend_grid(kan.up, num_intervals)
    new.down = refinement.extend_grid(kan.down, num_intervals)
    return new


def test_moments_of_what_does_not_change_are_kept_to_the_bit_and_a_map_keeps_their_size():
    adamw = optimizer.make(config(), 10)
    params = {"scale": jnp.ones(3), "spline": jnp.ones((2, 3))}
    _, state = adamw.update(jax.tree.map(lambda a: 0.3 * a, params), adamw.init(params), params)
    doubling = jnp.array([[1.0, 0.0], [0.5, 0.5], [-0.5, 1.5]])
    carried = optimizer.carry_moments(state, lambda tree: {**tree, "spline": doubling @ tree["spline"]})
    for moment in ("mu", "nu"):
        got, was = getattr(carried[1], moment), getattr(state[1], moment)
        np.testing.assert_array_equal(got["scale"], was["scale"])
        # The map's rows sum to 1: even moments stay as large as they are.
        reference.assert_close(got["spline"], np.full((3, 3), np.asarray(was["spline"])[0, 0]), terms=4)
    # Where signs differ a root may map to 0; the step stays one of the learning rate.
    grads = {"scale": jnp.ones(3), "spline": jnp.array([[1.0] * 3, [-3.0] * 3])}
    _, state = adamw.update(grads, adamw.init(params), params)
    steep = jnp.array([[1.5, -0.5], [0.5, 0.6]])
    carried = optimizer.carry_moments(state, lambda tree: {**tree, "spline": steep @ tree["spline"]})[1]
    assert (carried.nu["spline"] >= carried.mu["spline"] ** 2).all()
    assert np.abs(carried.mu["spline"]).min() > 0
    # Muon's mean is mapped as Adam's is, beside those that Adam keeps.
    both = optimizer.make(config(matrices="muon"), 10)
    _, of_both = both.update(grads, both.init(params), params)
    old = of_both[1].inner_states
    new = optimizer.carry_moments(of_both, lambda tree: {**tree, "spline": doubling @ tree["spline"]})
    new = new[1].inner_states
    mean = old["muon"].inner_state[0].trace["spline"]
    np.testing.assert_array_equal(new["muon"].inner_state[0].trace["spline"], doubling @ mean)
    jax.tree.map(np.testing.assert_array_equal, new["adam"], old["adam"])
    # An entry that the change leaves keeps its moments to the bit, as those of an expert whose grid stays: even a v
    # below m^2, where a rare gradient was the last one.
    adam = state[1]._replace(nu=jax.tree.map(lambda v: v / 10, state[1].nu))
    half = jnp.array([[1.0, 0.0], [0.5, 0.5]])
    carried = optimizer.carry_moments(
        (state[0], adam, *state[2:]), lambda tree: {**tree, "spline": half @ tree["spline"]}
    )
    for moment in ("mu", "nu"):
        np.testing.assert_array_equal(getattr(carried[1], moment)["spline"][0], getattr(adam, moment)["spline"][0])
    assert (adam.nu["spline"] < adam.mu["spline"] ** 2).all()
