"""Recall against distance, of a scorer of given answers."""

import pytest

from mixkabrn_jax.data.documents import task
from mixkabrn_jax.evaluation.tasks import recall
from mixkabrn_jax.evaluation.tasks.options import Options
from tests.evaluation.tasks.scorer import Scorer


def test_accuracy_is_counted_by_distance_and_other_documents_are_left_out():
    rows = [
        ("a", "1", "recall/16"),
        ("b", "2", "recall/16"),
        ("c", "3", "recall/128"),
        ("d", "4", "copy"),
        ("e", "5", "x/16"),
    ]
    documents = [task(prompt, target, domain, prompt) for prompt, target, domain in rows]
    found = recall.run(
        Scorer({b"a": b"1 and", b"b": b"3", b"c": b"3", b"d": b"", b"e": b""}), documents, Options(batch_size=2)
    )
    assert found.pop("target_bits_per_byte") == pytest.approx(4 / 3 / 0.6931471805599453)
    assert found == {"accuracy": 2 / 3, "accuracy@16": 0.5, "accuracy@128": 1.0, "n": 3}
    assert list(found) == ["accuracy", "accuracy@16", "accuracy@128", "n"]


def test_documents_without_recall_are_said_to_have_none():
    with pytest.raises(ValueError, match="recall: there are no documents"):
        recall.run(Scorer({}), [task("p", "t", "copy", "0")], Options())
