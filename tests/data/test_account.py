"""What is added up of a source, document by document."""

import pytest

from mixkabrn_jax.data import account, tokenizers
from mixkabrn_jax.data.account import Account, sample
from mixkabrn_jax.data.documents import Document, task


def test_records_bytes_and_tokens_are_added_up_and_the_parts_of_a_text_are_one_record():
    found = Account(tokenizers.Bytes())
    parts = [Document(b"ab", "d", "1", continues=True), Document(b"cd", "d", "1")]
    assert [found.add("train", part) for part in parts] == [True, False]
    assert found.add("test", task("why? ", "so", "e", "2"))
    assert (found.records, found.bytes, found.splits) == ({"d": 1, "e": 1}, {"d": 4, "e": 7}, {"train": 1, "test": 1})
    assert (found.num_tasks, found.num_tokens, found.encoded_bytes) == (1, 11, 11)


def test_what_would_be_held_out_is_of_the_documents_that_are_trained_on():
    found = Account(tokenizers.Bytes())
    for number in range(10):
        found.add("train", Document(b"x" * 10, "d", str(number)))
        found.add("test", Document(b"y" * 99, "d", f"test {number}"))
    assert found.held_out(0.2) == (20, 100)
    with pytest.raises(ValueError, match="holds nothing out"):
        Account(tokenizers.Bytes()).held_out(0.2)


def test_tokens_are_counted_in_a_sample(monkeypatch):
    monkeypatch.setattr(account, "SAMPLE_BYTES", 10)
    documents = [Document(b"x" * 6, "", str(number)) for number in range(5)]
    assert len(list(sample(documents))) == 2
    found = Account(tokenizers.Bytes())
    for document in documents:
        found.add("train", document)
    assert (found.bytes.total(), found.encoded_bytes, found.num_tokens) == (30, 12, 12)
