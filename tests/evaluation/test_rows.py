import itertools

import numpy as np
import pytest

from mixkabrn_jax.data import packing, tokenizers
from mixkabrn_jax.data.documents import Document, task
from mixkabrn_jax.evaluation import rows

TOKENIZER = tokenizers.Bytes()
SEPARATOR = TOKENIZER.separator


def documents(sizes, num_parts=1):
    """Documents of these sizes, each in parts of about the same size."""
    for index, size in enumerate(sizes):
        content = bytes((7 * index + at) % 128 for at in range(size))
        cuts = [size * part // num_parts for part in range(num_parts + 1)]
        for part, (start, stop) in enumerate(itertools.pairwise(cuts)):
            yield Document(content[start:stop], "", f"{index}", continues=part + 1 < num_parts)


def streams(batches):
    """(tokens, targets) of each document as the batches hold them."""
    found = {}
    for batch in batches:
        for owner, row, start, stop, _ in batch.spans:
            own = found.setdefault(owner.id, ([], []))
            own[0].extend(batch.tokens[row, start:stop])
            own[1].extend(batch.targets[row, start:stop])
    return found


def laid(kind, sizes, num_parts=1, alignment=4):
    runs = rows.of_documents(documents(sizes, num_parts), TOKENIZER)
    if kind == "row":
        return list(rows.in_one_row(runs, 16, alignment))
    return list(rows.in_batches(rows.windows(runs, 16), 3, 16, alignment))


class Pairs(tokenizers.Bytes):
    """Two bytes a token where there are two: what it makes depends on where it begins."""

    def encode(self, content, name=""):
        del name
        return np.array([content[i] for i in range(0, len(content), 2)], np.int32)


def test_a_task_has_the_tokens_that_training_gives_it():
    document = task("abc", "def", "", "")
    [run] = rows.of_documents([document], Pairs())
    window = packing.pack([document], Pairs(), len(run.tokens))[0]
    assert run.tokens.tolist() == window["tokens"].tolist()
    assert run.targets.tolist() == window["targets"].tolist()


@pytest.mark.parametrize("kind", ["row", "batches"])
@pytest.mark.parametrize("num_parts", [1, 3])
def test_every_token_is_predicted_once_from_the_one_before_it(kind, num_parts):
    sizes = [0, 1, 5, 15, 16, 17, 100, 3, 31]
    found = streams(laid(kind, sizes, num_parts))
    for document in documents(sizes):
        tokens = list(document.content)
        assert found[document.id] == ([SEPARATOR, *tokens], [*tokens, SEPARATOR])


def test_documents_start_where_the_alignment_says_and_a_segment_is_one_document():
    for batch in laid("row", [1, 5, 30, 2]):
        assert batch.tokens.shape == (1, 16)
        segments = {}
        for span in batch.spans:
            own = batch.segment_ids[0, span.start : span.stop]
            assert span.start % 4 == 0
            assert len(set(own)) == 1
            segments.setdefault(own[0], set()).add(span.owner.id)
        assert all(len(owners) == 1 for owners in segments.values())
        assert 0 not in segments


def test_a_row_says_whether_it_goes_on_with_the_document_before():
    assert [batch.continues for batch in laid("row", [40, 6, 1])] == [False, True, True, True]
    assert [batch.continues for batch in laid("row", [15, 3])] == [False, False]


@pytest.mark.parametrize("num_parts", [1, 2, 5])
def test_windows_are_those_of_the_whole_document_however_its_parts_are_cut(num_parts):
    runs = list(rows.windows(rows.of_documents(documents([50, 16], num_parts), TOKENIZER), 16))
    assert [len(run.tokens) for run in runs] == [16, 16, 16, 3, 16, 1]
    assert [run.ends for run in runs] == [False, False, False, True, False, True]
    assert all(run.starts for run in runs)


def test_a_document_that_is_cut_off_between_its_parts_ends_there():
    parts = list(documents([20], 2))[:1]
    runs = list(rows.of_documents(parts, TOKENIZER))
    np.testing.assert_array_equal(np.concatenate([run.targets for run in runs]), [*parts[0].content, SEPARATOR])
    assert runs[-1].ends
