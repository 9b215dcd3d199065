"""Tasks that are made up on the spot, whose answers can be checked: what a small model can remember, copy and compute.

`config.data.path` names them, with commas between them; "" is all of ours:

- `recall`: pairs of a key and a value, then one of the keys, whose value is wanted: "qk=17 ab=52 ...\\nqk=" and "17".
  The domain says how far back the pair lies: of "recall/16" 15 pairs follow it. Its distances are `DISTANCES`.
- `copy`: letters, which are wanted again: "qhzwd|" and "qhzwd". The domain says how many: "copy/16".
- `induction`: letters among which a "#" stands once and once more at the end: what followed it is wanted.
- `arithmetic`: sums, differences and products of whole numbers: "37+58=" and "95".
- `reasoning_gym:NAME`: a dataset of the package reasoning-gym, such as `reasoning_gym:basic_arithmetic`.

A record is a function of its task, split and number alone, on any machine and in any order. Those of two splits are
never the same: the hash of a prompt decides which split it may be in.
"""

import hashlib
import re
import string
from collections.abc import Callable, Iterator

from mixkabrn_jax.data.config import SPLITS, DataConfig
from mixkabrn_jax.data.documents import Document, task
from mixkabrn_jax.data.sources.family import Family

NUM_RECORDS = {"train": 20_000, "validation": 1_000, "test": 1_000}
"""Of each task, by split."""
DISTANCES = (1, 2, 4, 8, 16, 32)
"""Of `recall`: the pair that is asked for is the last, the one before the last, ..."""
LENGTHS = (4, 8, 16, 32, 64)
"""Of `copy`, in letters."""
REASONING_GYM = "reasoning_gym:"
_MOST_PAIRS = 36
_MOST_LETTERS = 120
_LARGEST = {"+": 999, "-": 999, "*": 99}


class Draws:
    """Whole numbers that look random and are a function of a name: the same for ever, as hashes are."""

    def __init__(self, name: str):
        """Takes the name."""
        self._name, self._block, self._waiting = name, 0, []

    def below(self, bound: int) -> int:
        """One of 0 .. bound - 1, all as likely but for a part in a million."""
        if not self._waiting:
            block = hashlib.sha256(f"{self._name}/{self._block}".encode()).digest()
            self._waiting = [int.from_bytes(block[place : place + 4]) for place in range(0, 32, 4)]
            self._block += 1
        return self._waiting.pop() % bound

    def choose(self, options):
        """One of several."""
        return options[self.below(len(options))]

    def letters(self, number: int) -> str:
        """So many lower-case letters."""
        return "".join(self.choose(string.ascii_lowercase) for _ in range(number))


def recall(draws: Draws) -> tuple[str, str, str]:
    """(domain, prompt, answer) of a task of associative recall. Its length says nothing of the distance."""
    distance = draws.choose(DISTANCES)
    number = distance + draws.below(_MOST_PAIRS - distance + 1)
    pairs: dict[str, str] = {}
    while len(pairs) < number:
        pairs.setdefault(draws.letters(2), str(10 + draws.below(90)))
    key = list(pairs)[-distance]
    listed = " ".join(f"{name}={value}" for name, value in pairs.items())
    return f"recall/{distance}", f"{listed}\n{key}=", pairs[key]


def copy(draws: Draws) -> tuple[str, str, str]:
    """(domain, prompt, answer) of letters to be said again."""
    number = draws.choose(LENGTHS)
    letters = draws.letters(number)
    return f"copy/{number}", f"{letters}|", letters


def induction(draws: Draws) -> tuple[str, str, str]:
    """(domain, prompt, answer) of a letter that follows a sign the second time as it did the first."""
    before, answer, after = draws.below(_MOST_LETTERS // 2), draws.letters(1), 1 + draws.below(_MOST_LETTERS // 2)
    return "induction", f"{draws.letters(before)}#{answer}{draws.letters(after)}#", answer


def arithmetic(draws: Draws) -> tuple[str, str, str]:
    """(domain, prompt, answer) of a sum, difference or product; numbers of few digits are as likely as of many."""
    sign = draws.choose("+-*")
    first, second = (draws.below(min(10 ** (1 + draws.below(3)), _LARGEST[sign] + 1)) for _ in range(2))
    return "arithmetic", f"{first}{sign}{second}=", str(_compute(first, sign, second))


TASKS: dict[str, Callable[[Draws], tuple[str, str, str]]] = {
    function.__name__: function for function in (recall, copy, induction, arithmetic)
}


def verify(document: Document, answer: str) -> bool:
    """Whether an answer to a record of this source is right, computed from its prompt; spaces around it do not count.

    Raises: ValueError for a document of another source.
    """
    prompt, answer = document.prompt.decode(), answer.strip()
    name = document.domain.partition("/")[0]
    if name.startswith(REASONING_GYM):
        dataset, split, number = document.id.removeprefix(REASONING_GYM).split("/")
        records = _reasoning_gym(dataset, split)
        return records.score_answer(answer, records[int(number)]) == 1
    if name == "recall":
        return dict(pair.split("=") for pair in prompt.split("\n")[0].split())[prompt[-3:-1]] == answer
    if name == "copy":
        return prompt.removesuffix("|") == answer
    if name == "induction":
        return prompt[prompt.index("#") + 1] == answer
    if name == "arithmetic":
        first, sign, second = re.fullmatch(r"(\d+)([-+*])(\d+)=", prompt).groups()
        return bool(re.fullmatch(r"-?\d{1,9}", answer)) and int(answer) == _compute(int(first), sign, int(second))
    raise ValueError(f"{document.id!r} of domain {document.domain!r} is no record of the source synthetic")


def _compute(first, sign, second):
    return {"+": first + second, "-": first - second, "*": first * second}[sign]


def record(name: str, split: str, number: int) -> Document:
    """The record of a task of ours, by its number from 0 in a split."""
    attempt = 0
    while True:
        domain, prompt, answer = TASKS[name](Draws(f"{name}/{split}/{number}/{attempt}"))
        if split_of_prompt(prompt) == split:
            return task(prompt, answer, domain, f"{name}/{split}/{number}", answers=(answer,))
        attempt += 1


def split_of_prompt(prompt: str) -> str:
    """The split that a prompt may be in: an eighth of all is left to each of validation and test."""
    place = hashlib.sha256(prompt.encode()).digest()[0] % 8
    return {0: "validation", 1: "test"}.get(place, "train")


def documents(config: DataConfig, split: str | None) -> Iterator[Document]:
    """The records of a split, or of all, of the tasks that `config.data.path` names, one of each in turn.

    Raises: ValueError for an unknown task; ImportError where reasoning-gym is needed and not installed.
    """
    names = [name.strip() for name in config.path.split(",") if name.strip()] or list(TASKS)
    for name in names:
        if name not in TASKS and not name.startswith(REASONING_GYM):
            known = ", ".join(TASKS)
            raise ValueError(
                f"{name!r} is no synthetic task: give some of {known}, {REASONING_GYM}NAME, with commas between them"
            )
    for own in SPLITS if split is None else [split]:
        makers = [_maker(name, own) for name in dict.fromkeys(names)]
        for number in range(NUM_RECORDS[own]):
            for make in makers:
                yield make(number)


def _maker(name, split):
    """A function from numbers to records."""
    if name in TASKS:
        return lambda number: record(name, split, number)
    records = _reasoning_gym(name.removeprefix(REASONING_GYM), split)

    def make(number):
        found = records[number]
        answer = str(found["answer"])
        return task(f"{found['question'].rstrip()}\n", answer, name, f"{name}/{split}/{number}", answers=(answer,))

    return make


def _reasoning_gym(name, split):
    """A dataset of reasoning-gym. Its records are seeded by number: those of the splits begin far apart."""
    try:
        import reasoning_gym
        from reasoning_gym.factory import DATASETS
    except ImportError as error:
        raise ImportError(f"{REASONING_GYM}{name} is made by reasoning-gym: pip install reasoning-gym") from error
    if name not in DATASETS:
        raise ValueError(f"{REASONING_GYM}{name}: reasoning-gym has no such dataset, but {', '.join(sorted(DATASETS))}")
    return reasoning_gym.create_dataset(name, seed=SPLITS.index(split) * 10_000_000, size=NUM_RECORDS[split])


FAMILY = Family(built_in=documents, legal="made by this package: Apache-2.0, as it is")
