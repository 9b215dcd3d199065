"""The State of the Union addresses, 1790 to 2021: 233 documents, 10.8 MB, whose domains are eight eras."""

import hashlib
import json
import lzma
from collections.abc import Iterator
from importlib import resources
from typing import Any, NamedTuple

from mixkabrn_jax.data.config import DataConfig
from mixkabrn_jax.data.documents import Document
from mixkabrn_jax.data.sources.family import Family

_FILE = "sotu.jsonl.xz"
SHA256 = "23a1c570d1e1df7b0d69b3783a76e2cd9eced1d0da6ba25a690320e9dad037e4"


class Era(NamedTuple):
    """A period of years, both ends included."""

    name: str
    first: int
    last: int


# The usual periods of American history, none so short that a tenth of it is less than two addresses: the decade before
# the Civil War goes with the war and Reconstruction, the Second World War and Korea with the Depression.
ERAS = (
    Era("early_republic", 1790, 1824),
    Era("age_of_jackson", 1825, 1848),
    Era("civil_war", 1849, 1877),
    Era("gilded_age", 1878, 1900),
    Era("progressive_era", 1901, 1928),
    Era("depression_and_war", 1929, 1952),
    Era("cold_war", 1953, 1991),
    Era("after_cold_war", 1992, 2021),
)


def era(year: int) -> str:
    """Returns the name of the era of a year; a year outside 1790 to 2021 is a ValueError."""
    for name, first, last in ERAS:
        if first <= year <= last:
            return name
    raise ValueError(f"year {year} lies in no era: the addresses run from {ERAS[0].first} to {ERAS[-1].last}")


def documents(config: DataConfig | None = None, split: str | None = None) -> Iterator[Document]:
    """The addresses in order of time, after checking that the file is the one that was shipped.

    They have no published split: all are of "train".
    """
    del config
    if split in (None, "train"):
        for address in addresses():
            yield Document(address["text"].encode("utf-8"), era(address["year"]), address["id"])


def addresses() -> list[dict[str, Any]]:
    """Each with its `id`, `year`, `name` (the speaker's) and `text`, in order of time."""
    return unpack(resources.files("mixkabrn_jax.data.corpora").joinpath(_FILE).read_bytes())


def unpack(packed: bytes) -> list[dict[str, Any]]:
    """The `addresses` in the bytes of the xz file; bytes of another SHA-256 are a ValueError."""
    found = hashlib.sha256(packed).hexdigest()
    if found != SHA256:
        raise ValueError(
            f"corpora/{_FILE} has SHA-256 {found} where {SHA256} was shipped: restore the file, or rebuild it with "
            "`python -m mixkabrn_jax.data.corpora.build_sotu`"
        )
    # Lines end at "\n" only: str.splitlines would also cut at characters that may stand inside a JSON string.
    return [json.loads(line) for line in lzma.decompress(packed).split(b"\n") if line]


FAMILY = Family(built_in=documents, legal="the addresses are in the public domain")
