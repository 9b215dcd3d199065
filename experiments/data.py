"""What a source holds, before anything is trained on it:

    python -m experiments.data --source=code --path=humaneval.jsonl --show=1

Prints the licence or legal status of the set, records, bytes and domains, the first records as they will be read, what
is damaged or left out and why, and the tokens that a byte costs. The last line is the same in JSON.
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator

from absl import flags

from configs import lm
from experiments import command_line

_SOURCE = flags.DEFINE_string("source", "auto", "sotu, text, m2d2, amps, math, gsm8k, code, openqa or synthetic")
_PATH = flags.DEFINE_string("path", "", "a file, archive or folder, or hub:owner/name; empty for what is built in")
_SPLIT = flags.DEFINE_enum(
    "split", None, ["train", "validation", "test"], "the split to read; all of them if not given"
)
_SHOW = flags.DEFINE_integer("show", 3, "so many of the first records are printed", lower_bound=0)
_ON_DAMAGE = flags.DEFINE_string("on_damage", "skip", "skip counts what cannot be read; error ends at the first")
_TOKENIZER = flags.DEFINE_string("tokenizer", "bytes", "bytes, characters, bpe, or the path of a tokenizer.json")
_VOCAB_SIZE = flags.DEFINE_integer("vocab_size", 2048, "tokens of a bpe")
_INCLUDE = flags.DEFINE_string("include", "", "patterns of the names to read, such as *.txt,notes/*; empty for all")
_EXCLUDE = flags.DEFINE_string("exclude", "", "patterns of names not to read")
_TEXT_COLUMN = flags.DEFINE_string("text_column", "", "of JSON Lines and Parquet; empty finds it by the usual names")
_LICENSES = flags.DEFINE_string("licenses", None, "that code may be under; empty reads all")

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

    def read(skipped):
        return sources.read(config, _SPLIT.value, skipped)

    with command_line.user_errors():
        config = data_config()
        skipped = Skipped(config.on_damage)
        if legal := sources.FAMILIES[config.family].legal:
            print(f"legal: {legal}\n", flush=True)
        tokenizer = tokenizers.make(config, lambda: sample(read(Skipped(config.on_damage))))
        account = Account(tokenizer, _SHOW.value)
        try:
            for document in read(skipped):
                account.add(document)
        except DamagedError:
            raise
        except ValueError as error:  # where no record is left; what was left out says why
            if not skipped.counts:
                raise
            nothing = error
    print("\n".join(account.lines(config, skipped)))
    if nothing is not None:
        print(f"training would end here: {nothing}")
    split = _SPLIT.value or "all"
    print(json.dumps({"source": config.family, "split": split, **account.summary(), "skipped": dict(skipped.counts)}))
    return 0


def data_config():
    """The config that training would have with these flags. Raises: ValueError, TypeError naming the field."""
    from mixkabrn_jax.data.config import DataConfig

    given = {
        "source": _SOURCE.value,
        "path": _PATH.value,
        "on_damage": _ON_DAMAGE.value,
        "tokenizer": _TOKENIZER.value,
        "vocab_size": _VOCAB_SIZE.value,
        "include": _INCLUDE.value,
        "exclude": _EXCLUDE.value,
        "text_column": _TEXT_COLUMN.value,
    }
    if _LICENSES.value is not None:
        given["licenses"] = _LICENSES.value
    return DataConfig(**{**lm.get_config().data.to_dict(), **given})


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
        self._tokenizer, self._num_shown = tokenizer, num_shown
        self._records: Counter[str] = Counter()
        self._bytes: Counter[str] = Counter()
        self._num_tasks = 0
        self._tokens = self._encoded_bytes = 0
        self._continues = False

    def add(self, document) -> None:
        """Takes the next document, or the next part of one, which is one record; prints it if it is among the first."""
        if not self._continues:
            self._records[document.domain] += 1
            self._num_tasks += bool(document.prompt_bytes)
            if self._records.total() <= self._num_shown:
                print("\n".join(shown(document, self._records.total())), end="\n\n", flush=True)
        self._continues = document.continues
        self._bytes[document.domain] += len(document.content)
        if self._encoded_bytes < SAMPLE_BYTES:
            for content in (document.prompt, document.target):
                self._tokens += len(self._tokenizer.encode(content, document.id)) if content else 0
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
        domains = "1 domain" if len(self._records) == 1 else f"{len(self._records):,} domains"
        yield f"{records:,} records{tasks}; {num_bytes:,} bytes; {domains}"
        for domain, count in self._records.most_common(LINES):
            yield f"  {domain or '(none)'}: {count:,} records, {self._bytes[domain]:,} bytes"
        if len(self._records) > LINES:
            yield f"  and {len(self._records) - LINES} more domains, which the last line has"
        if self._encoded_bytes:
            share = "" if self._encoded_bytes == num_bytes else f" in the first {self._encoded_bytes:,} bytes"
            yield (
                f"{self._tokens / self._encoded_bytes:.4f} tokens per byte{share} with the tokenizer "
                f"{config.tokenizer}, of {self._tokenizer.vocab_size:,} tokens"
            )
            yield held_out(config)
        if skipped.counts:
            yield "left out or damaged:"
            for reason, count in skipped.counts.most_common():
                yield f"  {count:,} {printable(reason)}, the first {printable(skipped.places[reason])}"
        if skipped.replaced:
            file, _ = skipped.replaced.most_common(1)[0]
            yield (
                f"{skipped.replaced.total():,} bytes or broken characters are no UTF-8 and are read as U+FFFD, in "
                f"{len(skipped.replaced):,} files, most of them in {printable(file)}"
            )


def held_out(config) -> str:
    """What training would hold out, in a sentence."""
    return (
        "training validates on the split called validation, valid, val or dev where there is one, else holds out "
        f"{config.validation_fraction:g} of the bytes of each domain (config.data.validation_fraction)"
    )


def shown(document, number: int) -> Iterator[str]:
    """A record as it will be read, cut to a screenful: prompt and target told apart where it has both."""
    domain = f", domain {document.domain}" if document.domain else ""
    tests = ", with tests" if document.tests else ""
    yield f"record {number}: {printable(document.id)}{printable(domain)}, {len(document.content):,} bytes{tests}"
    named = (
        [("prompt", document.prompt), ("target", document.target)] if document.prompt else [("text", document.target)]
    )
    for name, content in named:
        lines = content[: 4 * LINES * WIDTH].decode(errors="replace").split("\n")
        for line in lines[:LINES]:
            yield f"  {name:6} | {printable(line[:WIDTH])}{'...' if len(line) > WIDTH else ''}"
        if len(lines) > LINES or len(content) > 4 * LINES * WIDTH:
            yield f"  {name:6} | ... ({len(content):,} bytes in all)"
    if document.answers:
        more = f" and {len(document.answers) - 5} more" if len(document.answers) > 5 else ""
        yield f"  answers: {', '.join(printable(answer[:WIDTH]) for answer in document.answers[:5])}{more}"


def printable(text: str) -> str:
    """With escapes for what would move the cursor or ring the bell of a terminal."""
    return "".join(sign if sign.isprintable() or sign == "\t" else repr(sign)[1:-1] for sign in text)


if __name__ == "__main__":
    command_line.run(main)
