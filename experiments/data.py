"""What a source holds, before anything is trained on it:

    python -m experiments.data --source=code --path=humaneval.jsonl --show=1

Prints the licence or legal status of the set, records, bytes and domains, the first records as they will be read, what
is damaged or left out and why, and the tokens that a byte costs. The last line is the same in JSON. A set without a
record ends in an error that says why, behind that line.
"""

import itertools
import json
from collections.abc import Iterator

from absl import flags

from experiments import command_line, source_flags

_CONFIG = source_flags.define()
_SPLIT = flags.DEFINE_enum(
    "split", None, ["train", "validation", "test"], "the split to read; all of them if not given"
)
_SHOW = flags.DEFINE_integer("show", 3, "so many of the first records are printed", lower_bound=0)
_TOKENIZER = flags.DEFINE_string("tokenizer", "bytes", "bytes, characters, bpe, or the path of a tokenizer.json")
_VOCAB_SIZE = flags.DEFINE_integer("vocab_size", 2048, "tokens of a bpe")

LINES, WIDTH = 12, 110
"""What is shown of a prompt or target."""


def main():
    # Only here, so that a wrong flag is answered at once.
    from mixkabrn_jax.data import sources, tokenizers
    from mixkabrn_jax.data.account import Account, sample
    from mixkabrn_jax.data.documents import Skipped

    with command_line.user_errors("config.data."):
        config = _CONFIG(tokenizer=_TOKENIZER.value, vocab_size=_VOCAB_SIZE.value)
        if legal := sources.FAMILIES[config.family].legal:
            print(f"legal: {legal}\n", flush=True)
        account, skipped, nothing = Account(tokenizers.Bytes()), Skipped(config.on_damage), None
        try:
            tokenizer = tokenizers.make(config, lambda: sample(document for _, document in read(config, skipped)))
            account, skipped = Account(tokenizer), Skipped(config.on_damage)
            for split, document in read(config, skipped):
                if account.add(split, document) and (number := account.records.total()) <= _SHOW.value:
                    print("\n".join(shown(document, number)), end="\n\n", flush=True)
        except sources.NoDocumentsError as error:
            nothing = error
        print("\n".join([*totals(account, config), *sources.notes(config), *left_out(skipped)]))
        told = {"source": config.family, "split": _SPLIT.value or "all"}
        told |= {"records": account.records.total(), "bytes": account.bytes.total(), "domains": dict(account.records)}
        print(json.dumps(told | {"skipped": dict(skipped.counts)}), flush=True)
        if nothing is not None:  # behind the last line: who reads that alone sees why, too
            raise nothing
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


def totals(account, config) -> Iterator[str]:
    """The account in words."""
    records, num_bytes = account.records.total(), account.bytes.total()
    tasks = f", {account.num_tasks:,} of prompt and target" if account.num_tasks else ""
    yield f"{counted(records, 'record')}{tasks}; {num_bytes:,} bytes; {counted(len(account.records), 'domain')}"
    for domain, count in account.records.most_common(LINES):
        yield f"  {printable(domain) or '(none)'}: {counted(count, 'record')}, {account.bytes[domain]:,} bytes"
    if len(account.records) > LINES:
        yield f"  and {len(account.records) - LINES} more domains, which the last line has"
    if account.encoded_bytes:
        share = "" if account.encoded_bytes == num_bytes else f" in the first {account.encoded_bytes:,} bytes"
        yield (
            f"{account.num_tokens / account.encoded_bytes:.4f} tokens per byte{share} with the tokenizer "
            f"{config.tokenizer}, of {account.tokenizer.vocab_size:,} tokens"
        )
    if account.splits["train"]:
        yield validation(account, config)


def validation(account, config) -> str:
    """What training would validate on, in a sentence."""
    train, published = account.splits["train"], account.splits["validation"]
    if published:
        return f"training reads the {train:,} records of its split and validates on the {published:,} of theirs"
    try:
        held, num_bytes = account.held_out(config.validation_fraction)
    except ValueError as error:
        return f"training would end here: {error}"
    return (
        f"training validates on {held:,} of {num_bytes:,} bytes, held out at the end of each domain "
        f"(config.data.validation_fraction={config.validation_fraction:g}), unless config.data.validation_path names "
        "others"
    )


def left_out(skipped) -> Iterator[str]:
    """What was skipped, each reason with its first place, and what was replaced."""
    if skipped.counts:
        is_of_any = _SPLIT.value and any(reason.startswith("damaged archive") for reason in skipped.counts)
        yield "left out or damaged" + (" (what an archive lost may be of any split):" if is_of_any else ":")
        for reason, count in skipped.counts.most_common():
            yield f"  {count:,} {printable(reason)}, the first {printable(skipped.places[reason])}"
    if skipped.replaced:
        file, _ = skipped.replaced.most_common(1)[0]
        number, files = counted(skipped.replaced.total(), "place"), counted(len(skipped.replaced), "file")
        yield (
            f"{number} of broken UTF-8 or half a surrogate pair, read as U+FFFD, in {files}, most in {printable(file)}"
        )


def shown(document, number: int) -> Iterator[str]:
    """A record as it will be read, cut to a screenful: prompt and target told apart where it has both."""
    domain = f", domain {document.domain}" if document.domain else ""
    tests = ", with tests" if document.tests else ""
    more = "more than " if document.continues else ""
    yield f"record {number}: {printable(document.id)}{printable(domain)}, {more}{len(document.content):,} bytes{tests}"
    names = itertools.cycle(("prompt", "target")) if document.prompt else ("text",)
    for name, content in zip(names, document.texts, strict=False):
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
