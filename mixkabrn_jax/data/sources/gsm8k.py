"""GSM8K (Cobbe et al. 2021): problems of grade-school maths, solved in words.

`{train,test}.jsonl`, or Parquet. Calculations are marked, as in `48/2 = <<48/2=24>>24`. The marks stay in the target:
the authors train and lm-evaluation-harness prompts with them, and scores are only comparable to theirs with them.
"""

from collections.abc import Iterator

from mixkabrn_jax.data import records
from mixkabrn_jax.data.archives import File
from mixkabrn_jax.data.config import DataConfig
from mixkabrn_jax.data.documents import Document, Skipped, question
from mixkabrn_jax.data.sources.family import Family, is_named

MARK = "####"
"""Stands before the answer, on the last line."""


def documents(file: File, config: DataConfig, skipped: Skipped) -> Iterator[Document]:
    """The problems of a file; one whose answer has no `#### 72` is damage."""
    # The published repository and the hub have all problems twice, the second time with the solution as questions; the
    # repository has those of the test once more, with what models answered.
    if "socratic" in file.name.lower() and not is_named(file.name, config):
        skipped.left_out("socratic copies of the same problems (name the file to read them)", file.name)
        return
    if "example_model_solutions" in file.name:
        skipped.left_out("solutions of models", file.name)
        return
    for place, record in records.read(file, skipped):
        texts = records.texts(record, place, skipped, "question", "answer")
        if texts is None:
            continue
        answer = texts[1].rpartition(MARK)[2].strip().replace(",", "") if MARK in texts[1] else ""
        if not answer:
            skipped.damaged(f"no answer behind {MARK} in 'answer'", place)
            continue
        yield question(*texts, "gsm8k", place, (answer,))


FAMILY = Family(
    documents,
    layout="train.jsonl and test.jsonl, or .parquet, with question and answer",
    legal="GSM8K is under the MIT licence",
)
