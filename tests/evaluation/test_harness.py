import json
import pathlib
import re
import sys
from types import SimpleNamespace

import pytest

from mixkabrn_jax.data import tokenizers
from mixkabrn_jax.data.documents import Document
from mixkabrn_jax.evaluation import harness
from mixkabrn_jax.evaluation.score import Scorer
from mixkabrn_jax.evaluation.tasks import bits_per_byte, choice
from mixkabrn_jax.evaluation.tasks.options import Options
from tests import toy

DOCS = pathlib.Path(__file__).parents[2] / "docs"

TEXTS = ["abc cab", " gr\u00f6\u00dfe\r\n", "x" * 40, "", "a  b\u00a0c\n"]


@pytest.fixture(scope="module")
def scorer():
    model = toy.make(toy.model_config(ffn="mlp", num_experts=0), vocab_size=257)
    return Scorer(model, tokenizers.Bytes(), 16, 32)


def request(*arguments):
    """What the harness hands over: an object with `args`."""
    return SimpleNamespace(args=arguments)


def test_rolling_log_likelihoods_are_the_nats_of_the_headline(scorer):
    found = harness.Requests(scorer).loglikelihood_rolling([request(text) for text in TEXTS], disable_tqdm=True)
    ours = bits_per_byte.run(scorer, [Document(text.encode(), "", str(i)) for i, text in enumerate(TEXTS)])
    assert -sum(found) == pytest.approx(ours["nats"], rel=1e-12)
    assert len(found) == len(TEXTS)


def test_log_likelihoods_are_the_scorers_with_the_sign_turned(scorer):
    pairs = [("ab", " c"), ("", "gr\u00f6\u00dfe")]
    found = harness.Requests(scorer).loglikelihood([request(*pair) for pair in pairs])
    want = scorer.loglikelihood([tuple(text.encode() for text in pair) for pair in pairs])
    assert found == [(-one.nats, one.is_greedy) for one in want]


def test_completions_come_in_the_order_of_requests_of_any_options(scorer):
    options = [
        {"until": ["q"], "max_gen_toks": 4},
        {"until": "q", "max_new_tokens": 9},
        {"do_sample": True, "temperature": 1.0, "max_gen_toks": 4},
        {"until": ["q", ""], "max_gen_toks": 4, "do_sample": False, "temperature": 0.7},
    ]
    found = harness.Requests(scorer).generate_until([request(f"ab{i}", own) for i, own in enumerate(options)])
    hows = [(4, [b"q"], 0.0), (9, [b"q"], 0.0), (4, [], 1.0), (4, [b"q"], 0.0)]
    want = [scorer.complete([f"ab{i}".encode()], *how)[0] for i, how in enumerate(hows)]
    # A sampled one depends on its place in its group, which is itself here.
    assert found == [text.decode(errors="replace") for text in want]


def test_without_the_harness_a_sentence_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "lm_eval.api.model", None)
    with pytest.raises(ImportError, match="pip install lm-eval"):
        harness.adapter()


DATA = """dataset_path: json
dataset_kwargs: {data_files: {test: my_text.jsonl}}
test_split: test
"""
CHOICE = f"""task: my_choice
{DATA}
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: answer
metric_list: [{{metric: acc}}, {{metric: acc_bytes}}]
"""
COMPLETION = f"""task: my_completion
{DATA}
output_type: generate_until
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{text}}}}"
generation_kwargs: {{until: ["y"], max_gen_toks: 8}}
metric_list: [{{metric: exact_match}}]
"""


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_the_harness_itself_finds_our_figures(scorer, tmp_path, monkeypatch):
    """With tasks from files, the first of them that of docs/metrics.md."""
    lm_eval = pytest.importorskip("lm_eval")
    from lm_eval.tasks import TaskManager

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    texts = [text for text in TEXTS if text]
    records = [
        {"text": text, "question": f"{i} is", "choices": ["odd", "an even number"], "answer": (i + 1) % 2}
        for i, text in enumerate(texts)
    ]
    (tmp_path / "my_text.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    [of_docs] = re.findall("```yaml\n(.*?)```", (DOCS / "metrics.md").read_text(), re.DOTALL)
    for name, text in (("my_text", of_docs), ("my_choice", CHOICE), ("my_completion", COMPLETION)):
        (tmp_path / f"{name}.yaml").write_text(text)
    manager = TaskManager(include_path=str(tmp_path), include_defaults=False)
    tasks = ["my_text", "my_choice", "my_completion"]
    found = lm_eval.simple_evaluate(harness.adapter()(scorer), tasks=tasks, task_manager=manager, bootstrap_iters=0)
    ours = bits_per_byte.run(scorer, [Document(text.encode(), "", str(i)) for i, text in enumerate(texts)])
    for name in ("bits_per_byte", "byte_perplexity", "word_perplexity"):
        assert found["results"]["my_text"][f"{name},none"] == pytest.approx(ours[name], rel=1e-12)
    ours = choice.run(scorer, [choice.of_record(record, "", "") for record in records], Options())
    for name, own in (("acc", "acc"), ("acc_bytes", "acc_norm")):
        assert found["results"]["my_choice"][f"{name},none"] == pytest.approx(ours[own])
    written = scorer.complete([record["question"].encode() for record in records], 8, [b"y"])
    samples = sorted(found["samples"]["my_completion"], key=lambda sample: sample["doc_id"])
    assert [sample["resps"] for sample in samples] == [[[text.decode(errors="replace")]] for text in written]
