import json
import sys
from types import SimpleNamespace

import pytest

from mixkabrn_jax.data import tokenizers
from mixkabrn_jax.data.documents import Document
from mixkabrn_jax.evaluation import harness
from mixkabrn_jax.evaluation.score import Scorer
from mixkabrn_jax.evaluation.tasks import bits_per_byte
from tests import toy

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
    # A sampled one depends on its group, which is itself here.
    assert found == [text.decode(errors="replace") for text in want]


def test_without_the_harness_a_sentence_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "lm_eval.api.model", None)
    with pytest.raises(ImportError, match="pip install lm-eval"):
        harness.adapter()


TASK = """task: ours
dataset_path: json
dataset_kwargs: {{data_files: {{test: {path}}}}}
output_type: loglikelihood_rolling
test_split: test
doc_to_text: ""
doc_to_target: "{{{{text}}}}"
metric_list: [{{metric: word_perplexity}}, {{metric: byte_perplexity}}, {{metric: bits_per_byte}}]
"""


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_the_harness_itself_finds_our_figures(scorer, tmp_path, monkeypatch):
    lm_eval = pytest.importorskip("lm_eval")
    from lm_eval.tasks import TaskManager

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    texts = [text for text in TEXTS if text]
    (tmp_path / "documents.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    (tmp_path / "ours.yaml").write_text(TASK.format(path=tmp_path / "documents.jsonl"))
    manager = TaskManager(include_path=str(tmp_path), include_defaults=False)
    found = lm_eval.simple_evaluate(harness.adapter()(scorer), tasks=["ours"], task_manager=manager, bootstrap_iters=0)
    ours = bits_per_byte.run(scorer, [Document(text.encode(), "", str(i)) for i, text in enumerate(texts)])
    for name in ("bits_per_byte", "byte_perplexity", "word_perplexity"):
        assert found["results"]["ours"][f"{name},none"] == pytest.approx(ours[name], rel=1e-6)
