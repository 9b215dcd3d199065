"""What a source holds, before anything is trained on it:

    python -m experiments.data --source=code --path=humaneval.jsonl --show=1

Prints the licence or legal status of the set, records, bytes and domains, the first records as they will be read, what
is damaged or left out and why, and the tokens that a byte costs. The last line is the same in JSON.
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator

from absl import flags

from experiments import command_line, source_flags

_CONFIG = source_flags.define()
_SPLIT = flags.DEFINE_enum(
    "split", None, ["train", "validation", "test"], "the split to read; all of them if not given"
)
_SHOW = flags.DEFINE_integer("show", 3, "so many of the first records are printed", lower_bound=0)
_TOKENIZER = flags.DEFINE_string("tokenizer", "bytes", "bytes, characters, bpe, or the path of a tokenizer.json")
_VOCAB_SIZE = flags.DEFINE_integer("vocab_size", 2048, "tokens of a bpe")

SAMPLE_BYTES = 16 << 20
"""So many of the first bytes are encoded, to count tokens, and a tokenizer is made from them where it is made from any:
a BPE reads a few megabytes a second."""
LINES, WIDTH = 12, 110
"""What is shown of a prompt or target."""


def main():
    # Only here, so that a wrong flag is answered at once.
    from mixkabrn_jax.data import sources, tokenizers
    from mixkabrn_jax.data.documents import DamagedError, Skipped

    nothing = None
    with command_line.user_errors("config.data."):
        config = _CONFIG(tokenizer=_TOKENIZER.value, vocab_size=_VOCAB_SIZE.value)
        skipped = Skipped(config.on_damage)
        if legal := sources.FAMILIES[config.family].legal:
            print(f"legal: {legal}\n", flush=True)
        try:
            again = Skipped(config.on_damage)
            tokenizer = tokenizers.make(config, lambda: sample(document for _, document in read(config, again)))
            account = Account(tokenizer, _SHOW.value)
            for split, document in read(config, skipped):
                account.add(split, document)
        except DamagedError:
            raise
        except sources.NoDocumentsError as error:
            if not skipped.counts:
                raise
            nothing = error  # what was left out says why
    print("\n".join(account.lines(config, skipped)))
    if nothing is not None:
        print(f"training would end here: {nothing}")
    split = _SPLIT.value or "all"
    print(json.dumps({"source": config.family, "split": split, **account.summary(), "skipped": dict(skipped.counts)}))
    return 0


def read(config, skipped):
    """(split, document) of the split that is asked for, or of all.

    Raises: as `sources.read`.
    """
    from mixkabrn_jax.data import sources
    from mixkabrn_jax.data.documents import Skipped

    if _SPLIT.value is not None:
        yield from ((_SPLIT.value, document) for document in sources.read(config, _SPLIT.value, skipped))
        return
    is_empty = True
    for split, document in sources.read_splits(config, skipped, test=True):
        is_empty = False
        yield split, document
    if is_empty:  # which says what is wrong
        yield from (("train", document) for document in sources.read(config, None, Skipped(config.on_damage)))


def sample(documents: Iterable) -> Iterator:
    """The documents that tokens are counted in."""
    num_bytes = 0
    for document in documents:
        if num_bytes >= SAMPLE_BYTES:
            return
        yield document
        num_bytes += len(document.content)


class Account:
    """What was read, added up document by document."""

    def __init__(self, tokenizer, num_shown: int):
        """
        Args:
            num_shown: records to print as they come.
        """
        from mixkabrn_jax.data.splitting import Lengths

        self._tokenizer, self._num_shown = tokenizer, num_shown
        self._records: Counter[str] = Counter()
        self._bytes: Counter[str] = Counter()
        self._splits: Counter[str] = Counter()
        self._training = Lengths()
        self._num_tasks = 0
        self._tokens = self._encoded_bytes = 0
        self._continues = False

    def add(self, split: str, document) -> None:
        """Takes the next document, or the next part of one, which is one record; prints it if it is among the first."""
        if not self._continues:
            self._records[document.domain] += 1
            self._splits[split] += 1
            self._num_tasks += bool(document.prompt_bytes)
            if self._records.total() <= self._num_shown:
                print("\n".join(shown(document, self._records.total())), end="\n\n", flush=True)
        if split == "train":
            self._training.add(document)
        self._continues = document.continues
        self._bytes[document.domain] += len(document.content)
        if self._encoded_bytes < SAMPLE_BYTES:
            self._tokens += sum(len(self._tokenizer.encode(text, document.id)) for text in document.texts)
            self._encoded_bytes += len(document.content)

    def summary(self) -> dict:
        """Numbers of records, bytes, and records of each domain."""
        return {
            "records": self._records.total(),
            "bytes": self._bytes.total(),
            "domains": dict(self._records),
        }

    def lines(self, config, skipped) -> Iterator[str]:
        """The account in words."""
        records, num_bytes = self._records.total(), self._bytes.total()
        tasks = f", {self._num_tasks:,} of prompt and target" if self._num_tasks else ""
        yield f"{counted(records, 'record')}{tasks}; {num_bytes:,} bytes; {counted(len(self._records), 'domain')}"
        for domain, count in self._records.most_common(LINES):
            yield f"  {printable(domain) or '(none)'}: {counted(count, 'record')}, {self._bytes[domain]:,} bytes"
        if len(self._records) > LINES:
            yield f"  and {len(self._records) - LINES} more domains, which the last line has"
        if self._encoded_bytes:
            share = "" if self._encoded_bytes == num_bytes else f" in the first {self._encoded_bytes:,} bytes"
            yield (
                f"{self._tokens / self._encoded_bytes:.4f} tokens per byte{share} with the tokenizer "
                f"{config.tokenizer}, of {self._tokenizer.vocab_size:,} tokens"
            )
        if self._splits["train"]:
            yield self._held_out(config)
        if skipped.counts:
            yield "left out or damaged:"
            for reason, count in skipped.counts.most_common():
                yield f"  {count:,} {printable(reason)}, the first {printable(skipped.places[reason])}"
        if skipped.replaced:
            file, _ = skipped.replaced.most_common(1)[0]
            yield (
                f"{skipped.replaced.total():,} bytes or broken characters are no UTF-8 and are read as U+FFFD, in "
                f"{counted(len(skipped.replaced), 'file')}, most of them in {printable(file)}"
            )

    def _held_out(self, config):
        """What training would validate on, in a sentence."""
        train, validation = self._splits["train"], self._splits["validation"]
        if validation:
            return f"training reads the {train:,} records of its split and validates on the {validation:,} of theirs"
        try:
            held = self._training.held_bytes(self._training.cuts(config.validation_fraction))
        except ValueError as error:
            return f"training would end here: {error}"
        return (
            f"training validates on {sum(held.values()):,} of {self._training.num_bytes:,} bytes, held out at the end "
            f"of each domain (config.data.validation_fraction={config.validation_fraction:g}), unless "
            "config.data.validation_path names others"
        )


def shown(document, number: int) -> Iterator[str]:
    """A record as it will be read, cut to a screenful: prompt and target told apart where it has both."""
    domain = f", domain {document.domain}" if document.domain else ""
    tests = ", with tests" if document.tests else ""
    more = "more than " if document.continues else ""
    yield f"record {number}: {printable(document.id)}{printable(domain)}, {more}{len(document.content):,} bytes{tests}"
    named = (
        [("prompt", document.prompt), ("target", document.target)] if document.prompt else [("text", document.target)]
    )
    for name, content in named:
        lines = content[: 4 * LINES * WIDTH].decode(errors="replace").split("\n")
        for line in lines[:LINES]:
            yield f"  {name:6} | {printable(line[:WIDTH])}{'...' if len(line) > WIDTH else ''}"
        if len(lines) > LINES or len(content) > 4 * LINES * WIDTH:
            yield f"  {name:6} | ... ({more}{len(content):,} bytes in all)"
    if document.answers:
        more = f" and {len(document.answers) - 5} more" if len(document.answers) > 5 else ""
        yield f"  answers: {', '.join(printable(answer[:WIDTH]) for answer in document.answers[:5])}{more}"


def counted(number: int, noun: str) -> str:
    """`1 record`, `2 records`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def printable(text: str) -> str:
    """With escapes for what would move the cursor or ring the bell of a terminal."""
    return "".join(sign if sign.isprintable() or sign == "\t" else repr(sign)[1:-1] for sign in text)


if __name__ == "__main__":
    command_line.run(main)
