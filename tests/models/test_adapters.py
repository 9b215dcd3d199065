"""Adapters add nothing before their first update, are trained alone, sum, come off, and merge."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from mixkabrn_jax.data.tokenizers import Bytes
from mixkabrn_jax.layers import variables
from mixkabrn_jax.layers.frozen import Codes
from mixkabrn_jax.models import adapters, surgery
from mixkabrn_jax.models.adapters import AdapterConfig
from mixkabrn_jax.runs import model_file
from mixkabrn_jax.training import step
from tests import reference, toy

LOW = {"linear": "ternary", "kan__spline_linear": "ternary", "quantization__embedding": "int8"}
MODELS = {"dense": {}, "ternary": LOW | {"router__dispatch": "dense"}}
CONFIG = AdapterConfig(rank=2, alpha=4.0)
TOKENS = toy.tokens(0, 2, 12)
FORWARD = jax.jit(lambda model, tokens_BT: model(tokens_BT).logits_BTW)


@pytest.fixture(scope="module", params=[pytest.param("dense", marks=pytest.mark.slow), "ternary"])
def base(request):
    """(a model that is frozen as its file has it, the same one with its matrices unpacked)."""
    return frozen(**MODELS[request.param])


def frozen(**changes):
    model, config = toy.make(toy.model_config(**changes), vocab_size=257), toy.document()
    content = model_file.to_bytes(model, Bytes(), config)
    return model_file.frozen_from_bytes(content)[0], model_file.from_bytes(content)[0]


def random(model, seed=0):
    """The model with adapters that add something."""
    graph, params, rest = nnx.split(model, nnx.Param, ...)
    rng = np.random.default_rng(seed)
    params = jax.tree.map(lambda a: jnp.asarray(0.3 * rng.standard_normal(a.shape), a.dtype), params)
    return nnx.merge(graph, params, rest)


def put_in(model, config=CONFIG):
    return adapters.put_in(model, config, rngs=nnx.Rngs(0))


def test_a_frozen_model_is_the_one_of_its_file_and_adapters_that_are_new_add_nothing_to_the_bit(base):
    """Operation by operation: where XLA fuses sums into products, their rounding depends on what stands beside."""
    packed, unpacked = base
    with jax.disable_jit():
        want = unpacked(TOKENS).logits_BTW
        for model in (
            packed,
            *(put_in(packed, dataclasses.replace(CONFIG, experts=each)) for each in adapters.EXPERTS),
        ):
            np.testing.assert_array_equal(model(TOKENS).logits_BTW, want)


def updates(model):
    """(the parameters' changes in the first and the second update by their names, the model after them)."""
    sgd = optax.sgd(0.5)
    setup, states = toy.setup(model, sgd, router_bias_rate=0.0), [step.init(model, sgd)]
    update = jax.jit(lambda state: step.train_step(state, toy.batch(1), setup))
    for _ in range(2):
        states.append(update(states[-1]))
    params = [nnx.to_flat_state(state.params) for state in states]
    moved = [
        {".".join(map(str, path)): np.asarray(new[...] - old[...]) for (path, old), (_, new) in zip(*pair, strict=True)}
        for pair in itertools.pairwise(params)
    ]
    return moved, variables.merge(setup.graph, states[-1].params, states[-1].buffers)


def test_first_B_then_A_is_moved_and_the_model_beside_them_never(base):
    packed, _ = base
    before = [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(nnx.state(packed))]
    (first, second), after = updates(put_in(packed))
    assert first.keys() == {f"{path}.lora_{letter}" for path in surgery.matrices(packed) for letter in "AB"}
    for path in first:
        assert np.any(first[path]) == path.endswith("lora_B"), path
        assert np.any(second[path]), path
    assert [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(nnx.state(adapters.apply(after, [])))] == before


def test_a_frozen_model_takes_few_bits_and_has_nothing_to_train():
    packed, unpacked = frozen(**LOW, d_model=32)
    assert not jax.tree.leaves(nnx.state(packed, nnx.Param))
    matrices = surgery.matrices(packed)
    assert all(isinstance(matrix, Codes) for matrix in matrices.values())
    codes = sum(matrix.codes[...].nbytes for name, matrix in matrices.items() if name != "embedding_WD")
    numbers = sum(matrix[...].size for name, matrix in surgery.matrices(unpacked).items() if name != "embedding_WD")
    assert codes <= numbers / 3  # 6 hidden units take two bytes
    assert matrices["embedding_WD"].codes[...].nbytes == unpacked.embedding_WD.size


def test_layers_are_not_kept_unpacked_for_the_backward_pass():
    """Of what a forward pass leaves behind, no array of every layer has the shape of an unpacked matrix."""
    packed, _ = frozen(**LOW | {"num_experts": 0, "num_shared_experts": 0, "key_width": 24})
    model = put_in(packed)
    graph, params, buffers = variables.split(model)
    shapes = {matrix.shape for name, matrix in surgery.matrices(packed).items() if name != "embedding_WD"}

    def pullback(params, buffers):
        return jax.vjp(lambda params: variables.merge(graph, params, buffers)(toy.tokens(0, 2, 9)).logits_BTW, params)[
            1
        ]

    kept = {
        leaf.shape for leaf in jax.tree.leaves(jax.eval_shape(pullback, params, buffers)) if leaf.dtype != jnp.uint8
    }
    assert not kept & shapes


def test_adapters_sum_with_weights_switch_and_come_off():
    packed, _ = frozen()
    first, second = (random(put_in(packed), seed) for seed in (1, 2))
    found = [adapters.factors(model) for model in (first, second)]
    both = adapters.apply(second, [(found[0], 1.0), (found[1], -0.5)])
    for name, pair in adapters.factors(both).items():
        terms = [jnp.matmul(*each[name], precision="highest") for each in found]
        want = terms[0] - 0.5 * terms[1]
        np.testing.assert_allclose(jnp.matmul(*pair, precision="highest"), want, atol=reference.tolerance(want, 4))
    want = FORWARD(first, TOKENS)
    assert np.abs(want - FORWARD(both, TOKENS)).max() > 0.1
    switched = adapters.apply(both, [(found[0], 1.0)])
    np.testing.assert_allclose(FORWARD(switched, TOKENS), want, atol=toy.rounding(want, packed.config, 12))
    before, off = surgery.matrices(packed), surgery.matrices(adapters.apply(both, []))
    assert before.keys() == off.keys()
    for name, matrix in before.items():  # the very arrays: nothing is read or copied
        own = [matrix.codes, off[name].codes] if isinstance(matrix, Codes) else [matrix, off[name]]
        assert own[0][...] is own[1][...]


def test_a_merged_model_is_the_one_with_adapters_to_rounding():
    _, unpacked = frozen()
    for experts in adapters.EXPERTS:
        model = random(put_in(unpacked, dataclasses.replace(CONFIG, experts=experts)))
        want = FORWARD(model, TOKENS)
        assert np.abs(want - FORWARD(unpacked, TOKENS)).max() > 0.1
        merged = adapters.merge(model)
        np.testing.assert_allclose(FORWARD(merged, TOKENS), want, atol=toy.rounding(want, unpacked.config, 12))
        assert not adapters.factors(merged)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"linear": "ternary"}, r"routed_blocks\.\S+ is ternary"),
        ({"kan__spline_linear": "int8"}, r"routed_blocks\.\S+\.spline is int8"),
        ({"quantization__embedding": "int4"}, "embedding_WD is int4"),
    ],
)
def test_merging_into_matrices_that_are_rounded_as_they_are_read_is_refused(changes, told):
    model = toy.make(toy.model_config(**changes))
    with pytest.raises(ValueError, match=f"^{told}, and would round its adapter away: open the model from its file"):
        adapters.merge(put_in(model))
    if "linear" not in changes:  # beside dense ones alone there is none to be lost
        adapters.merge(put_in(model, dataclasses.replace(CONFIG, targets="*.mixer.*")))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"targets": "*.mixr.*"},
            r"config\.adapter\.targets='\*\.mixr\.\*': patterns: '\*\.mixr\.\*' matches no matrix",
        ),
        ({"targets": " , "}, r"config\.adapter\.targets=' , ': at least one pattern"),
        (
            {"rank": 7},
            r"config\.adapter\.rank=7 is above the width of routed_blocks\.ffn\.\S+, which is .*: at most 6 is",
        ),
    ],
)
def test_what_does_not_fit_a_model_is_refused_by_name(changes, message):
    with pytest.raises(ValueError, match=message):
        put_in(toy.make(toy.model_config()), dataclasses.replace(CONFIG, **changes))


@pytest.mark.parametrize("changes", [{"rank": -1}, {"alpha": 0.0}, {"experts": "some"}])
def test_impossible_values_are_refused_by_name(changes):
    (field,) = changes
    with pytest.raises(ValueError, match=rf"config\.adapter\.{field}="):
        AdapterConfig(**changes)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"d_model": 8}, "embedding_WD, 29 x 2 x 8"),
        ({"num_layers": 1}, r"routed_blocks\.\S+, 1 x .*"),
        ({"num_experts": 2}, r"routed_blocks\.ffn\.experts\.\S+, 2 x 2 x .*"),
        ({"tied_embeddings": False}, "head_WD, 29 x 2 x 16"),
    ],
)
def test_an_adapter_of_another_model_is_refused(changes, told):
    other = adapters.factors(put_in(toy.make(toy.model_config(**changes))))
    with pytest.raises(ValueError, match=f"^an adapter is for another model: it has factors of {told}$"):
        adapters.apply(toy.make(toy.model_config()), [(other, 1.0)])
