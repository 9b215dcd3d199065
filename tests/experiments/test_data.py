"""The command that shows what a source holds; each command of docs/data.md on a small copy of its set."""

import gzip
import io
import json
import re
import shlex
import subprocess
import sys
import tarfile
import tracemalloc
import zipfile
from pathlib import Path

import pytest
from absl import flags

from mixkabrn_jax.data import sources
from mixkabrn_jax.data.config import SPLITS
from mixkabrn_jax.data.sources import english_german, synthetic
from tests.data.sources.test_code import PROBLEM

ROOT = Path(__file__).parents[2]
ROW = re.compile(r"^\| ([^|]+) \|.*\| `(python -m experiments\.data [^`]+)` \|$", re.MULTILINE)
ROWS = ROW.findall((ROOT / "docs" / "data.md").read_text())


def lines(*records):
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records).encode()


def parquet(*records):
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    packed = io.BytesIO()
    parquet.write_table(pa.Table.from_pylist(list(records)), packed)
    return packed.getvalue()


def tar_gz(files):
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return packed.getvalue()


def zipped(files):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return packed.getvalue()


M2D2 = {"train.txt": b"One .\n\nTwo .\n", "valid.txt": b"Held out .\n", "test.txt": "Cut é".encode()[:-1]}
CODE = {"code": "int x;", "language": "C", "license": "mit"}
# By the path of the command: the files there, and how many records they are and what is left out.
MINIATURES = {
    "": ({}, None, {}),
    "recall,arithmetic": ({}, 100, {}),
    "speaker,word": ({}, 92, {}),
    "my_texts": (
        {
            "my_texts/a.txt": b"a",
            "my_texts/b/c.txt.gz": gzip.compress(b"c"),
            "my_texts/d.jsonl": lines({"text": "d"}, {"body": "e"}),
            "my_texts/f.png": b"\x89PNG",
        },
        4,
        {"not text (a PNG image)": 1},
    ),
    "my_pair": (
        {
            "my_pair/a.tsv": "it\tfr\nsì\toui\nno\t\n".encode(),
            "my_pair/news.fr": b"un\ndeux\n",
            "my_pair/news.it": b"uno\ndue\n",
        },
        3,
        {"no text in 'fr'": 1},
    ),
    "tinyshakespeare.txt": ({"tinyshakespeare.txt": b"First Citizen:\nSpeak.\n"}, 1, {}),
    "wikitext-2-raw-v1": (
        lambda: {
            f"wikitext-2-raw-v1/{split}-00000-of-00001.parquet": parquet(
                *({"text": row} for row in ("", " = Title = \n", "", " An article . \n", "", " = Other = \n", ""))
            )
            for split in ("train", "validation", "test")
        },
        2,
        {},
    ),
    "alpaca.json": (
        {"alpaca.json": json.dumps([{"instruction": "Add.", "input": "1 1", "output": "2"}, {"prompt": "?"}]).encode()},
        1,
        {"no text in 'completion' or 'response' or 'target' or 'output' or 'answer'": 1},
    ),
    "enwik8.zip": ({"enwik8.zip": zipped({"enwik8": b"<mediawiki>" * 100})}, 1, {}),
    "m2d2": (
        {
            **{f"m2d2/Sports_and_games__Sports/{name}": content for name, content in M2D2.items()},
            "m2d2/cs.CL.tar.gz": tar_gz({f"cs.CL/{name}": content for name, content in M2D2.items()}),
        },
        2,
        {},
    ),
    "amps": (
        {
            "amps/khan/504/1607900679.json": lines({"problem": "1 + 1?", "hints": ["Count.", "The answer is $2$."]}),
            "amps/mathematica/algebra/sums/1.txt": b"Problem:\nAdd 1 and 1.\nAnswer:\n$2$\nAnswer:\n$2.$\n",
        },
        2,
        {},
    ),
    "MATH": (
        {
            f"MATH/{split}/algebra/1.json": lines(
                {"problem": "1/2?", "level": "Level 1", "type": "Algebra", "solution": r"\boxed{\frac{1}{2}}"}
            )
            for split in ("train", "test")
        },
        1,
        {},
    ),
    "gsm8k": (
        {
            "gsm8k/train.jsonl": lines({"question": "2 * 2?", "answer": "2*2 = <<2*2=4>>4\n#### 4"}),
            "gsm8k/test.jsonl": lines({"question": "1 + 1?", "answer": "#### 2"}),
        },
        1,
        {},
    ),
    "code_exercises": (
        lambda: {
            "code_exercises/data/train-00000-of-00001.parquet": parquet(
                {"problem": "def one():\n", "solution": "    return 1"}
            )
        },
        1,
        {},
    ),
    "tiny-codes": (
        lambda: {
            "tiny-codes/part_1_200000.parquet": parquet(
                {"prompt": "Write one.", "response": "1", "programming_language": "Python"}
            )
        },
        1,
        {},
    ),
    "github-code": (
        lambda: {
            "github-code/data/train-00000-of-01126.parquet": parquet(CODE, {**CODE, "license": "gpl-3.0"}),
            "github-code/smol.jsonl": lines({"content": "x", "lang": "C", "licenses": ["MIT"]}),
        },
        2,
        {"licence gpl-3.0": 1},
    ),
    "my_code": (
        {"my_code/x/tests/test_x.py": b"x = 1\n", "my_code/README.md": b"#"},
        1,
        {"no source code by its ending": 1},
    ),
    "HumanEval.jsonl.gz": ({"HumanEval.jsonl.gz": gzip.compress(lines(PROBLEM))}, 1, {}),
    "NQ-open.dev.jsonl": ({"NQ-open.dev.jsonl": lines({"question": "who?", "answer": ["Ada", "Ada L."]})}, 1, {}),
    "triviaqa.jsonl": (
        {"triviaqa.jsonl": lines({"question": "who?", "answer": {"value": "Ada", "aliases": ["Ada L."]}})},
        1,
        {},
    ),
    "webquestions.jsonl": ({"webquestions.jsonl": lines({"qText": "who?", "answers": ["Ada"]})}, 1, {}),
}


@pytest.fixture
def show(entry, capsys, tmp_path, monkeypatch):
    """Runs the command in an empty folder: (its last line, all that it prints). A set without a record is expected to
    end it with the sentence `nothing`."""
    monkeypatch.chdir(tmp_path)
    command = entry("data")

    def run(*arguments, nothing=None):
        for flag in flags.FLAGS.flags_by_module_dict()["experiments.data"]:
            flag.unparse()  # what the command before was given
        if nothing is None:
            assert command.run(*arguments) == 0
        else:
            with pytest.raises(SystemExit) as ended:
                command.run(*arguments)
            assert ended.value.code.startswith("error: ")
            assert nothing in ended.value.code
            assert "\n" not in ended.value.code
        printed = capsys.readouterr()
        assert printed.err == ""
        return json.loads(printed.out.splitlines()[-1]), printed.out

    return run


def write(files):
    for name, content in files.items():
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_bytes(content)


def test_the_table_has_a_row_for_each_source():
    named = {re.search(r"--source=(\w+)", command)[1] for _, command in ROWS}
    assert set(sources.FAMILIES) <= named
    assert len(ROWS) == 23


@pytest.mark.parametrize(("name", "command"), ROWS, ids=[name for name, _ in ROWS])
def test_the_command_of_a_row_reads_a_small_copy_of_its_set(show, monkeypatch, name, command):
    _, _, _, *arguments = shlex.split(command)
    given = dict(argument.removeprefix("--").split("=") for argument in arguments)
    files, records, left_out = MINIATURES[given.get("path", "")]
    write(files() if callable(files) else files)
    monkeypatch.setattr(synthetic, "NUM_RECORDS", dict.fromkeys(SPLITS, 50))
    monkeypatch.setattr(english_german, "NUM_PAIRS", dict.fromkeys(SPLITS, 5))
    if name.startswith("English"):
        records = 2 * 5
    if name.startswith("Python"):  # all of it is read in tests/data/sources/test_code.py
        write({"library/os.py": b"x = 1\n"})
        monkeypatch.setattr("sysconfig.get_path", lambda _: "library")
        records = 1
    found, printed = show(*arguments)
    assert list(found) == ["source", "split", "records", "bytes", "domains", "skipped"]
    assert found["source"] == given["source"]
    assert found["split"] == given.get("split", "all")
    assert found["records"] == sum(found["domains"].values()) == (233 if records is None else records)
    assert found["skipped"] == left_out
    legal = sources.FAMILIES[given["source"]].legal
    assert printed.startswith(f"legal: {legal}\n" if legal else "record 1: ")


def test_records_are_shown_as_they_will_be_read_with_prompt_and_target_told_apart(show):
    write({"x.jsonl": lines({**PROBLEM, "canonical_solution": "    return '\x1b[2J\x07'\n"}, {"code": "y" * 9000})})
    _, printed = show("--source=code", "--path=x.jsonl", "--show=5")
    assert "record 1: x.jsonl:1, domain humaneval, 50 bytes, with tests\n  prompt | def add(a, b):\n" in printed
    assert r"  target |     return '\x1b[2J\x07'" in printed
    assert "\x1b" not in printed
    assert f"  text   | {'y' * 110}...\n" in printed
    assert "  text   | ... (9,000 bytes in all)\n" in printed
    assert "2 records, 1 of prompt and target" in printed
    assert "record 1" not in show("--source=code", "--path=x.jsonl", "--show=0")[1]


def test_a_conversation_is_shown_by_turns_as_its_template_has_it(show):
    said = [{"role": role, "content": role[0]} for role in ("user", "assistant") * 2]
    write({"x.jsonl": lines({"messages": said}, {"messages": said[1:]})})
    found, printed = show("--path=x.jsonl", "--template=chat")
    turn = "  prompt | Question: u\n  prompt | Answer:\n  target |  a\\x03\n"
    assert 2 * turn in printed
    assert found["skipped"] == {"the role 'assistant' first, where 'system' or 'user' is needed": 1}


def test_what_is_damaged_left_out_or_replaced_is_told_with_its_first_place(show):
    write(
        {
            "d/a.jsonl": lines({"text": "a"}) + b'{"text": "\xff\xfe"}\nno JSON\n[]\n{"other": 1}\nno JSON\n',
            "d/b.gz": gzip.compress(b"text " * 99_999)[:-50],
            "d/c.txt": "UTF-16".encode("utf-16"),
            "d/.d": b"hidden",
            "d/e.txt": b"caf\xe9",
        }
    )
    found, printed = show("--path=d")
    assert found["records"] == 4
    reasons = dict(found["skipped"])
    [archive] = [reason for reason in reasons if reason.startswith("damaged archive")]
    assert reasons.pop(archive) == 1
    [column] = [reason for reason in reasons if reason.startswith("no text column")]
    assert reasons.pop(column) == 1
    assert reasons == {"not JSON": 2, "not a JSON object": 1, "not text (UTF-16)": 1, "hidden": 1}
    assert "  2 not JSON, the first a.jsonl:3\n" in printed
    assert "  1 not text (UTF-16), the first c.txt\n" in printed
    assert "3 places of broken UTF-8 or half a surrogate pair, read as U+FFFD, in 2 files, most in a.jsonl\n" in printed


@pytest.mark.parametrize("tokenizer", ["bytes", "bpe"])  # one of which is made from the documents
def test_a_set_without_a_record_is_told_of_like_any_other_and_is_an_error_that_says_why(show, tokenizer):
    write({"x.jsonl": b"no JSON\n", "d/x.jsonl": lines({"text": " "}), "test.jsonl": lines({"code": "x"})})
    empty = {"source": "text", "split": "all", "records": 0, "bytes": 0, "domains": {}}
    nothing = "error: --path='x.jsonl': no documents (this source reads text, in files of any name); left out were 1 "
    found, printed = show("--path=x.jsonl", f"--tokenizer={tokenizer}", nothing=f"{nothing}not JSON (first: x.jsonl:1)")
    assert found == {**empty, "skipped": {"not JSON": 1}}
    assert "0 records; 0 bytes; 0 domains\n" in printed
    assert "  1 not JSON, the first x.jsonl:1\n" in printed
    given = ("--path=d", f"--tokenizer={tokenizer}")
    assert show(*given, nothing="left out were 1 empty (first: x.jsonl:1)")[0] == {**empty, "skipped": {"empty": 1}}
    found, _ = show(
        "--source=code", "--path=test.jsonl", "--split=train", nothing="no files of the split 'train', only"
    )
    assert found == {**empty, "source": "code", "split": "train", "skipped": {}}
    Path("none").mkdir()
    assert show("--path=none", nothing="--path='none': no documents")[0] == {**empty, "skipped": {}}


def test_what_is_left_out_is_counted_of_the_split_that_is_asked_for(show):
    cut = gzip.compress(b"".join(lines({"code": str(number)}) for number in range(999)))[:-99]
    row = lines({"code": "x"})
    write({"d/train.jsonl": row + b"no JSON\n", "d/train-2.jsonl.gz": cut, "d/test.jsonl": row + b"[]\n"})
    found, printed = show("--source=code", "--path=d", "--split=test")
    assert (found["records"], found["skipped"]) == (1, {"not a JSON object": 1})
    assert "left out or damaged:\n" in printed
    write({"d/rows.tar.gz": tar_gz({"train.jsonl": row * 999})[:-20]})
    found, printed = show("--source=code", "--path=d", "--split=test")
    assert [reason.partition(" (")[0] for reason in found["skipped"]] == ["damaged archive", "not a JSON object"]
    assert "left out or damaged (what an archive lost may be of any split):\n" in printed
    assert sum(show("--source=code", "--path=d")[0]["skipped"].values()) >= 4


def test_what_training_would_validate_on_is_told(show):
    write({"d/train.jsonl": lines(*[{"code": "x" * 10}] * 90), "d/dev.jsonl": lines({"code": "y"}, {"code": "z"})})
    write({"d/test.jsonl": lines({"code": "test"})})
    found, printed = show("--source=code", "--path=d")
    assert found["records"] == 93
    assert "training reads the 90 records of its split and validates on the 2 of theirs\n" in printed
    assert (
        "training validates on 50 of 900 bytes, held out at the end of each domain"
        in show("--source=code", "--path=d/train.jsonl")[1]
    )
    write({"x.txt": b"x"})
    assert "training would end here: config.data.validation_fraction=0.05 of 1 doc" in show("--path=x.txt")[1]
    assert "training" not in show("--source=code", "--path=d", "--split=test")[1]


def test_names_that_are_taken_for_splits_and_sets_side_by_side_are_told_of(show):
    write({f"d/{name}.jsonl": lines({"text": name}) for name in ("train", "val", "test")})
    printed = show("--path=d")[1]
    assert "training reads the 1 records of its split and validates on the 1 of theirs\n" in printed
    assert "\ntrain.jsonl, val.jsonl, test.jsonl stand beside each other and are read as the splits" in printed
    write({f"w/{name}/wiki.{split}.tokens": b"x" for name in ("a", "b") for split in ("train", "valid", "test")})
    assert "\na, b have splits of their own and are read as one set: name the folder" in show("--path=w")[1]


def test_parts_of_a_long_text_are_one_record_and_memory_does_not_grow_with_them(show):
    with open("long.txt", "wb") as file:
        for _ in range(40):
            file.write(b"a line of text\n" * 70_000)
    found, printed = show("--path=long.txt", "--show=1")
    assert (found["records"], found["bytes"]) == (1, 40 * 15 * 70_000)
    assert printed.count("record 1:") == 1
    assert "1.0000 tokens per byte in the first 20,971,515 bytes" in printed or "bytes with the tokenizer" in printed


@pytest.mark.slow
def test_memory_does_not_grow_with_a_set(show):
    peaks = []
    for number in (10, 60):
        with gzip.open("long.jsonl.gz", "wb") as file:
            for _ in range(number):
                file.write(lines({"text": "word " * 200}) * 1000)
        tracemalloc.start()
        show("--path=long.jsonl.gz", "--show=0")
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.5 * peaks[0]


def test_tokens_are_counted_with_the_tokenizer_that_is_asked_for(show):
    write({"x.txt": "äöü äöü. ".encode() * 200})
    assert "1.0000 tokens per byte with the tokenizer bytes, of 257 tokens" in show("--path=x.txt")[1]
    assert (
        "0.6000 tokens per byte with the tokenizer characters, of 6 tokens"
        in show("--path=x.txt", "--tokenizer=characters")[1]
    )
    _, printed = show("--path=x.txt", "--tokenizer=bpe", "--vocab_size=270")
    assert float(re.search(r"([\d.]+) tokens per byte with the tokenizer bpe", printed)[1]) < 0.4


def test_a_split_names_and_columns_are_chosen_by_flags(show):
    write({f"d/{name}.jsonl": lines({"content": name, "body": "x" * 9}) for name in ("train", "valid", "test")})
    assert show("--source=code", "--path=d", "--split=validation")[0]["bytes"] == 5
    assert show("--source=code", "--path=d", "--split=test", "--text_column=body")[0]["bytes"] == 9
    assert show("--source=code", "--path=d")[0]["records"] == 3
    assert show("--source=code", "--path=d", "--include=t*", "--exclude=test*")[0]["skipped"] == {"not wanted": 2}
    assert show("--source=synthetic", "--path=copy", "--split=test", "--show=0")[0]["records"] == 1000
    assert synthetic.NUM_RECORDS["test"] == 1000


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--path=nowhere"], "error: --path='nowhere' does not exist: give a file, an archive or"),
        (["--source=books"], "error: --source='books' must be one of ('auto', 'sotu'"),
        (["--source=text"], "error: --path='' names no file, but --source='text' reads one"),
        (["--split=dev"], "error: flag --split=dev: value should be one of <train|validation|test>"),
        (
            ["--on_damage=stop", "--path=x.jsonl"],
            "error: --on_damage='stop' must be one of ('skip', 'error')",
        ),
        (["--source=synthetic", "--path=sums"], "error: --path='sums': 'sums' is no synthetic task"),
        (["--show=-1"], "error: --show=-1"),
        (["--tokenizer=words", "--path=x.jsonl"], "error: --tokenizer='words'"),
        (["--path=x.jsonl", "--on_damage=error"], "error: x.jsonl:2: not JSON"),
        (["--path=x.zip", "--on_damage=error"], "error: x.zip: damaged archive (File is not a zip file)"),
        (["x.jsonl"], "error: 'x.jsonl' is not a flag: write --name=value"),
    ],
)
def test_mistakes_and_damage_end_in_a_sentence(show, arguments, message):
    write({"x.jsonl": lines({"text": "a"}) + b"no JSON\n", "x.zip": b"no zip"})
    with pytest.raises(SystemExit) as ended:
        show(*arguments)
    assert str(ended.value).startswith(message)
    assert "\n" not in str(ended.value)


def test_an_extra_that_is_not_installed_is_a_sentence(show, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    write({"x.parquet": b"PAR1"})
    with pytest.raises(
        SystemExit, match=r"^error: x\.parquet is a Parquet file, which pyarrow reads: pip install pyarrow$"
    ):
        show("--path=x.parquet")


def test_as_a_process_damage_is_exit_code_1_and_a_sentence_alone_on_standard_error(tmp_path):
    (tmp_path / "x.jsonl").write_bytes(lines({"text": "ä"}) + b"no JSON\n")
    command = [sys.executable, "-m", "experiments.data", f"--path={tmp_path}", "--on_damage=error"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert (run.returncode, run.stderr) == (1, "error: x.jsonl:2: not JSON\n")
    (tmp_path / "x.jsonl").write_bytes(b"no JSON\n")
    run = subprocess.run(command[:-1], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert (run.returncode, run.stderr.startswith("error: --path=")) == (1, True)
    assert json.loads(run.stdout.splitlines()[-1])["skipped"] == {"not JSON": 1}
