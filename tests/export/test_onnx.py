"""The graphs of a model against the runtime that they are written from, in ONNX Runtime and in ONNX's own evaluator."""

import json
import sys

import numpy as np
import pytest

from mixkabrn_run import file, tokenizer
from mixkabrn_run.file import Matrix
from mixkabrn_run.functions import Functions
from mixkabrn_run.model import Model
from tests import toy
from tests.run.test_against_jax import DENSE, KINDS, TOKENIZER, content_of, read_all, slowly

LOW = {"linear": "ternary", "kan__spline_linear": "ternary", "quantization__embedding": "int8"}
PARTS = ("numerator", "denominator")
IN_A_HURRY = ("all four", "attention", "sigmoid scores in groups", "adaptive knots, going on")


def parsed(**changes):
    return file.parse(content_of(changes))


def some_tokens(number=24):
    return (toy.tokens(0, number) % TOKENIZER.vocab_size).astype(np.int64)


def nothing_read(model):
    """The state at the start of a document, as a graph's inputs tell it: zeros, and empty where a length is open."""
    onnx = pytest.importorskip("onnx")
    found = {}
    for port in model.graph.input[1:]:
        kind = port.type.tensor_type
        shape = [dimension.dim_value for dimension in kind.shape.dim]
        found[port.name] = np.zeros(shape, onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type))
    return found


def run_in(model, evaluator="onnxruntime"):
    """A function of a graph: (what it reads, the state) -> (logits, the next state)."""
    if evaluator == "onnxruntime":
        run = pytest.importorskip(evaluator).InferenceSession(model.SerializeToString()).run
    else:
        run = pytest.importorskip(evaluator).ReferenceEvaluator(model).run
    reads = model.graph.input[0].name

    def call(tokens, state):
        logits, *values = run(None, {reads: tokens, **state})
        return logits, dict(zip(state, values, strict=True))

    return call


def step_by_step(model, tokens, evaluator="onnxruntime"):
    """Logits behind each token, `[T, W]`, and the state behind the last."""
    step, state, rows = run_in(model, evaluator), nothing_read(model), []
    for token in tokens:
        logits, state = step(token[None], state)
        rows.append(logits)
    return np.stack(rows), state


def nodes(graph):
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from nodes(attribute.g)


@pytest.fixture
def graphs():
    """The module under test, where its package is installed."""
    pytest.importorskip("onnx")
    from mixkabrn_jax.export import onnx as graphs

    return graphs


@pytest.mark.parametrize("name", slowly(KINDS, IN_A_HURRY))
def test_the_step_of_a_dense_model_has_the_logits_of_the_runtime(graphs, name):
    found, tokens = parsed(**DENSE | KINDS[name]), some_tokens()
    want = read_all(Model(found), tokens)
    mine, _ = step_by_step(graphs.step(found), tokens)
    np.testing.assert_allclose(mine, want, atol=1e-4 * max(1, np.abs(want).max()), rtol=0)


@pytest.mark.parametrize("name", slowly(KINDS, ["all four"]))
@pytest.mark.parametrize("linear", ["ternary", "binary"])
def test_a_rounded_model_has_nearly_the_logits_of_the_runtime(graphs, name, linear):
    """Sums of codes are exact in both; around them a rounding elsewhere may move an input to the next code."""
    found, tokens = parsed(**LOW | {"linear": linear} | KINDS[name]), some_tokens()
    want = read_all(Model(found), tokens)
    mine, _ = step_by_step(graphs.step(found), tokens)
    assert np.median(np.abs(mine - want)) < 1e-6 * np.abs(want).max()
    assert np.abs(mine - want).max() < 1e-2 * np.abs(want).max()


@pytest.mark.parametrize("name", ["all four", "attention"])
def test_a_text_at_once_is_its_tokens_one_by_one_and_goes_on_from_there(graphs, name):
    found, tokens = parsed(**DENSE | KINDS[name]), some_tokens()
    want, behind = step_by_step(graphs.step(found), tokens)
    model = graphs.prefill(found)
    prefill, state, rows = run_in(model), nothing_read(model), []
    for part in (tokens[:10], tokens[10:11], tokens[11:]):
        logits, state = prefill(part, state)
        rows.append(logits)
    np.testing.assert_allclose(np.concatenate(rows), want, atol=2e-5 * np.abs(want).max(), rtol=0)
    for key, value in behind.items():
        np.testing.assert_allclose(state[key], value, atol=2e-5 * max(1, np.abs(value).max()), rtol=0)


BASES = {
    **{
        f"degree {degree}, {outside}{', own knots' * own}": {"degree": degree, "extrapolation": outside, "own": own}
        for degree in range(4)
        for outside in ("fade", "clamp", "linear")
        for own in (False, True)
    },
    **{basis: {"basis": basis} for basis in ("chebyshev", "fourier", "rbf", "rational")},
}


@pytest.mark.parametrize("name", BASES)
@pytest.mark.usefixtures("graphs")
def test_functions_on_edges_are_those_of_the_runtime_inside_their_grid_and_out_of_it(name):
    from mixkabrn_jax.export.onnx import graph
    from mixkabrn_jax.export.onnx.functions import edges

    options = {"basis": "bspline", "degree": 3, "extrapolation": "fade", "own": False} | BASES[name]
    x_1D = np.linspace(-5, 5, 41, dtype=np.float32)[None]  # ends of the grid, its points, and both sides of it
    rng = np.random.default_rng(0)
    grid = {"low": -2.0, "high": 2.0, "num_intervals": 4} | {k: options[k] for k in ("degree", "extrapolation")}
    arrays = {f"features.{part}_PG": Matrix(rng.normal(size=(2, 4)).astype("f"), None) for part in PARTS}
    if options["own"]:
        knots_DM = np.sort(rng.uniform(-4, 4, (x_1D.size, 5 + 2 * options["degree"])), axis=1)
        arrays = {"features.knots_DM": Matrix(knots_DM.astype(np.float32), None)}
    functions = Functions({"basis": options["basis"], "grid": grid}, x_1D.size, arrays)
    want_GD = functions(x_1D[0])
    g, kind = graph.Graph(), graph.FLOAT
    found = graph.Port(edges(g, functions, "x", x_1D.size), kind, want_GD.shape)
    model = graph.to_model(g.to_proto([graph.Port("x", kind, x_1D.shape)], [found]))
    (mine_GD,) = pytest.importorskip("onnxruntime").InferenceSession(model.SerializeToString()).run(None, {"x": x_1D})
    np.testing.assert_allclose(mine_GD, want_GD, atol=1e-5 * np.abs(want_GD).max(), rtol=0)


def test_the_evaluator_of_onnx_itself_agrees(graphs):
    found, tokens = parsed(**LOW), some_tokens(6)
    want = read_all(Model(found), tokens)
    mine, _ = step_by_step(graphs.step(found), tokens, "onnx.reference")
    np.testing.assert_allclose(mine, want, atol=1e-5 * np.abs(want).max(), rtol=0)


def test_operators_are_the_standard_ones_and_each_expert_is_behind_a_condition(graphs):
    found = parsed(**LOW, num_layers=2, num_experts=4, experts_per_token=2)
    for model in (graphs.step(found), graphs.prefill(found)):
        assert [(opset.domain, opset.version) for opset in model.opset_import] == [("", 25)]
        every = list(nodes(model.graph))
        assert {node.domain for node in every} == {""}
        assert sum(node.op_type == "If" for node in every) == 2 * 4


def test_a_ternary_weight_takes_two_bits(graphs):
    found = parsed(**LOW)
    entry = graphs.describe(graphs.step(found))["int2"]
    ternary = [array for name, array in found.arrays.items() if array.scales is not None and name != "embedding_WD"]
    assert entry["numbers"] == sum(array.values.size for array in ternary)
    assert entry["numbers"] / 4 <= entry["bytes"] <= entry["numbers"] / 4 + entry["count"]


def test_a_graph_says_what_it_was_written_from(graphs):
    found = parsed(**LOW)
    about = {entry.key: entry.value for entry in graphs.step(found).metadata_props}
    assert json.loads(about["config"]) == found.model
    assert tokenizer.from_record(json.loads(about["tokenizer"])).vocab_size == TOKENIZER.vocab_size
    assert about["sha256"] == found.sha256


def test_without_the_package_one_is_told_to_install_it(monkeypatch):
    for name in [name for name in sys.modules if name.startswith("mixkabrn_jax.export.onnx")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ImportError, match="not installed: pip install onnx"):
        import mixkabrn_jax.export.onnx  # noqa: F401
