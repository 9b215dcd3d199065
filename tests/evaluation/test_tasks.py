import math
import re

import numpy as np
import pytest

from mixkabrn_jax.data import packing, tokenizers
from mixkabrn_jax.data.documents import Document, task
from mixkabrn_jax.evaluation.score import Piece, Scorer
from mixkabrn_jax.evaluation.tasks import bits_per_byte
from mixkabrn_jax.training.objectives.language import LanguageObjective
from tests import toy

LN2 = math.log(2)


class OneBitPerByte:
    """A scorer that needs no model: a byte costs a bit, in windows two, a question mark nine, and a separator three."""

    tokenizer = tokenizers.Bytes()
    carries = True

    def pieces(self, documents, *, windowed=False):
        first_token = 0
        for document in documents:
            tokens_T = self.tokenizer.encode(document.content)
            nats_T = (np.where(tokens_T == ord("?"), 9, 1 + windowed) * LN2).astype(np.float32)
            yield Piece(document, first_token, tokens_T, nats_T, nats_T > 0, None if document.continues else 3 * LN2)
            first_token = first_token + len(tokens_T) if document.continues else 0


TEXTS = ["a b", "  white\u00a0space \n\n", "", "gr\u00f6\u00dfe", "word " * 20]


def documents(domain=lambda i: f"d{i % 2}"):
    return [Document(text.encode(), domain(i), f"{i}") for i, text in enumerate(TEXTS)]


def test_bits_per_byte_are_sums_over_all_documents_and_over_each_domain():
    found = bits_per_byte.run(OneBitPerByte(), documents())
    num_bytes = sum(len(text.encode()) for text in TEXTS)
    assert found["bits_per_byte"] == pytest.approx(1, rel=1e-6)
    assert found["windowed_bits_per_byte"] == pytest.approx(2, rel=1e-6)
    assert found["bits_per_byte_with_end"] == pytest.approx(1 + 3 * 5 / num_bytes, rel=1e-6)
    assert (found["bytes"], found["tokens"], found["n"]) == (num_bytes, num_bytes, 5)
    assert found["nats"] == pytest.approx(num_bytes * LN2, rel=1e-6)
    assert found["byte_perplexity"] == found["token_perplexity"] == pytest.approx(2, rel=1e-6)
    assert {name: one["n"] for name, one in found["domains"].items()} == {"d0": 3, "d1": 2}
    assert sum(one["nats"] for one in found["domains"].values()) == pytest.approx(found["nats"])


def test_what_stands_behind_prompts_has_a_figure_of_its_own():
    text = Document(b"xxxxx", "text", "0")
    assert bits_per_byte.run(OneBitPerByte(), [text])["target_bits_per_byte"] == pytest.approx(1, rel=1e-6)
    found = bits_per_byte.run(OneBitPerByte(), [task("????", "xxxx", "tasks", "1"), text, task("?", "", "tasks", "2")])
    assert (found["bytes"], found["target_bytes"]) == (14, 9)
    assert found["target_bits_per_byte"] == pytest.approx(1, rel=1e-6)
    assert found["bits_per_byte"] == pytest.approx((5 * 9 + 9) / 14, rel=1e-6)
    assert found["domains"]["tasks"]["target_bytes"] == 4


def test_they_are_the_bits_per_byte_that_a_run_logs_which_learns_them_alone():
    model = toy.make(toy.model_config(ffn="mlp", num_experts=0), vocab_size=257)
    documents = [task(f"{i}+{i}?", f" {2 * i}", "", f"{i}") for i in range(4)]
    length = sum(len(document.content) + 1 for document in documents)
    [window] = packing.pack(documents, tokenizers.Bytes(), length, loss_on="targets")
    objective = LanguageObjective(**toy.section("objective"))
    logged = objective.totals(model, {name: array[None] for name, array in window.items()})
    found = bits_per_byte.run(Scorer(model, tokenizers.Bytes(), 16), documents)
    assert found["target_bytes"] == logged.num_bytes
    assert found["target_bits_per_byte"] == pytest.approx(float(logged.text_nats / LN2 / logged.num_bytes), rel=1e-5)


@pytest.mark.parametrize("size", [1, 2, 3, 50])
def test_words_are_what_white_space_parts_wherever_a_text_is_cut(size):
    """As lm-evaluation-harness counts them: `len(re.split(r"\\s+", text))`."""
    parts = []
    for i, text in enumerate(TEXTS):
        cuts = [text[start : start + size] for start in range(0, len(text), size)] or [""]
        parts += [Document(cut.encode(), "", f"{i}", continues=True) for cut in cuts[:-1]]
        parts.append(Document(cuts[-1].encode(), "", f"{i}"))
    found = bits_per_byte.run(OneBitPerByte(), parts)
    words = sum(len(re.split(r"\s+", text)) for text in TEXTS)
    assert found["word_perplexity"] == pytest.approx(math.exp(found["nats"] / words), rel=1e-12)
    assert found["n"] == len(TEXTS)


def test_a_position_is_counted_in_bytes_from_the_start_of_its_document():
    whole = [Document(b"x" * 100, "", "a"), Document(b"y" * 20, "", "b")]
    parts = [Document(b"x" * 33, "", "a", continues=True), Document(b"x" * 67, "", "a"), whole[1]]
    for given in (whole, parts):
        positions = bits_per_byte.run(OneBitPerByte(), given)["positions"]
        assert [(one["from"], one["to"], one["bytes"]) for one in positions] == [
            (0, 16, 32),
            (16, 32, 20),
            (32, 64, 32),
            (64, 128, 36),
        ]
        assert all(one["bits_per_byte"] == pytest.approx(1, rel=1e-6) for one in positions)


def test_documents_that_can_be_read_once_only_are_refused():
    with pytest.raises(ValueError, match="read twice"):
        bits_per_byte.run(OneBitPerByte(), iter(documents()))
    with pytest.raises(ValueError, match="no documents"):
        bits_per_byte.run(OneBitPerByte(), [])
