"""What every entry point answers to help and to mistakes, before it imports anything slow."""

import json
import os
import platform
import re
import subprocess
import sys
from pathlib import Path

import pytest

from configs import lm
from experiments import command_line
from mixkabrn_jax.runs.config import flatten

# ml_collections loads a config file in a way that Python has deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")

ROOT = Path(__file__).parents[2]
ENTRY_POINTS = ("convert", "generate", "ray_train", "sweep", "train")


@pytest.fixture(autouse=True)
def _in_the_repository(monkeypatch):
    monkeypatch.chdir(ROOT)


def test_compiled_programs_are_kept_where_the_user_says_or_in_the_user_s_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "mine"))
    assert command_line.keep_compiled_programs() == tmp_path / "mine"
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = command_line.keep_compiled_programs()
    assert folder == tmp_path / "cache" / "mixkabrn_jax" / "compiled" / platform.node()
    assert Path(os.environ["JAX_COMPILATION_CACHE_DIR"]) == folder


def test_information_is_a_plain_line_and_a_warning_says_that_it_is_one():
    program = """
import logging, warnings
from experiments import command_line

def main():
    log = logging.getLogger("mixkabrn_jax.anything")
    log.warning("%s is left out", "x")
    log.warning("the law says y", extra={"is_information": True})
    log.error("z")
    log.info("not seen")
    warnings.warn("w")

command_line.run(main)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr == "warning: x is left out\nthe law says y\nerror: z\nwarning: w\n"


def test_fields_are_called_as_the_flags_that_they_are_where_they_are_some():
    told = []
    with command_line.user_errors("config.", told.append):
        raise ValueError("config.data.logtostderr=1 does not fit config.data.fields=2, nor config.alsologtostderr.")
    with command_line.user_errors(answer=told.append):
        raise ValueError("config.data.logtostderr=1")
    assert told == [
        "--logtostderr=1 does not fit config.data.fields=2, nor --alsologtostderr.",
        "config.data.logtostderr=1",
    ]


@pytest.mark.parametrize("name", ENTRY_POINTS)
@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help_is_the_docstring_the_program_s_own_flags_and_the_config_s_fields(entry, capsys, name, flag):
    program = entry(name)
    with pytest.raises(SystemExit) as ended:
        program.parse(flag)
    assert ended.value.code == 0
    text, errors = capsys.readouterr()
    assert errors == ""
    assert f"python -m experiments.{name}" in text.split("\n\nflags:\n")[0]
    assert "\n  --workdir=" in text
    assert "--stderrthreshold" not in text  # absl's
    shown = {line.split("=")[0].strip() for line in text.splitlines() if line.startswith("  --config.")}
    wanted = flatten(lm.get_config("tiny").to_dict()) if "--config=" in text else ()
    assert shown == {f"--config.{field}" for field in wanted}
    assert ("--config=" in text) == (name not in ("convert", "generate"))


def test_help_says_what_a_field_is_for(entry, capsys):
    program = entry("train")
    with pytest.raises(SystemExit):
        program.parse("--help")
    text = capsys.readouterr().out
    assert "\n  --config.num_steps=2700\n" in text
    assert "\n  --config.checkpoint.keep=2  # the newest\n" in text
    assert "--coordinator_address=..." in text


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("train", [], "--config=configs/lm.py:tiny is needed: config file, with a size after a colon; --workdir=runs/"),
        ("train", ["--config=configs/lm.py"], "--workdir=runs/tiny is needed: workdir of the run, made where it"),
        ("train", ["--plan"], "--config=configs/lm.py:tiny is needed: config file, with a size after a colon"),
        ("generate", [], "--workdir=runs/tiny is needed: workdir of a trained run"),
        ("sweep", ["--config=configs/lm.py", "--workdir=x"], "--sweep=ablation is needed: generator of trials: a"),
        ("train", ["--config=README.md"], "--config=README.md: README.md is no Python file, as configs/lm.py is"),
        ("train", ["--config", "README.md", "--config.seed=1"], "--config=README.md: README.md is no Python file"),
        ("train", ["--config=absent.py"], "--config=absent.py: there is no file 'absent.py'; configs/lm.py:tiny, for"),
        ("train", ["--config=configs"], "--config=configs: there is no file 'configs'"),
        ("train", ["--config="], "--config=: there is no file ''"),
        ("train", ["--config=configs/lm.py:huge", "--plan"], "configs/lm.py:huge: one of ('nano', 'tiny', 'small', "),
        (
            "train",
            ["--config=configs/lm.py", "--plan", "--config.sed=1"],
            "--config.sed=1: the config file declares no such field; is --config.seed meant?",
        ),
        (
            "train",
            ["--config=configs/lm.py", "--plan", "--config.nope=1"],
            "--config.nope=1: the config file declares no such field; --help lists those that there are",
        ),
        (
            "train",
            ["--config=configs/lm.py", "--plan", "--config.num_steps=six"],
            "--config.num_steps=six: an integer is needed",
        ),
        (
            "train",
            ["--config=configs/lm.py", "--plan", "--config.model.tied_embeddings=maybe"],
            "--config.model.tied_embeddings=maybe: true or false is needed",
        ),
        ("train", ["--config=configs/lm.py", "--plan", "--chip_flops=-1"], "--chip_flops=-1: a number >= 1 is needed"),
        (
            "train",
            ["--config=configs/lm.py", "--plan", "--config.model=3"],
            "--config.model=3: it is a section of the config: set its fields, such as --config.model.d_model",
        ),
        ("train", ["--config=configs/lm.py", "--wrkdir=x"], "--wrkdir=x: there is no such flag; is --workdir meant?"),
        ("train", ["--config=configs/lm.py", "--x"], "--x: there is no such flag; --help lists those that there are"),
        ("train", ["--config=configs/lm.py", "--plan", "stray"], "'stray' is not a flag: write --name=value"),
        (
            "train",
            ["--config=configs/lm.py", "--workdir=x", "--process_id=1"],
            "--coordinator_address, --num_processes",
        ),
        ("train", ["--config=configs/lm.py", "--workdir=x", "--chip_flops=1"], "--chip_flops and --chip_bandwidth go"),
    ],
)
def test_a_wrong_command_line_is_answered_with_a_sentence(entry, name, arguments, message):
    program = entry(name)
    with pytest.raises(SystemExit) as ended:
        program.parse(*arguments)
    assert ended.value.code.startswith(f"error: {message}")
    assert "\n" not in ended.value.code


@pytest.mark.parametrize("name", ENTRY_POINTS)
def test_an_empty_workdir_is_none(entry, name):
    program = entry(name)
    config = [] if name in ("convert", "generate") else ["--config=configs/lm.py:tiny"]
    with pytest.raises(SystemExit, match=r"^error: --workdir=\S+ is needed: ") as ended:
        program.parse(*config, *["--sweep=ablation"] * (name == "sweep"), "--workdir=")
    assert "\n" not in ended.value.code


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def get_config(:\n", "{file}, line 1: SyntaxError: invalid syntax"),
        ("\nimport nothing_there\n", "{file}, line 2: ModuleNotFoundError: No module named 'nothing_there'"),
        ("def get_config():\n    return 1 / 0\n", "{file}, line 2: ZeroDivisionError: division by zero"),
        ("def get_config():\n    return {}['a']\n", "{file}, line 2: KeyError: a"),
        ("size = 1\n", "{file} has no function get_config()"),
        ("def get_config():\n    return {'num_steps': 3}\n", "get_config() of {file} returns no ConfigDict"),
    ],
)
@pytest.mark.parametrize("more", [(), ("--config.num_steps=3",)])
def test_a_config_file_that_fails_is_named_with_the_line(entry, tmp_path, text, message, more):
    file = tmp_path / "mine.py"
    file.write_text(text)
    program = entry("train")
    with pytest.raises(SystemExit) as ended:
        program.parse(f"--config={file}", "--workdir=x", *more)
    assert ended.value.code == f"error: --config={file}: {message.format(file=file)}"


def test_the_config_that_is_made_is_printed(entry, capsys):
    arguments = ["--config=configs/lm.py:small", "--config.num_steps=7", "--config.data.path=ä b"]
    assert entry("train").run("--print_config", *arguments) == 0
    config = lm.get_config("small")
    config.update_from_flattened_dict({"num_steps": 7, "data.path": "ä b"})
    assert json.loads(capsys.readouterr().out) == config.to_dict()


def test_a_plan_is_printed_with_the_seconds_of_a_step(entry, capsys):
    small = ["--config.model.ffn=mlp", "--config.model.num_experts=0", "--config.mesh.data=4"]
    chip = ["--chip_flops=1e12", "--chip_bandwidth=1e9"]
    assert entry("train").run("--plan", "--config=configs/lm.py:tiny", *small, *chip) == 0
    lines = capsys.readouterr().out.splitlines()
    assert " parameters on 4 devices, 1,024 tokens a step" in lines[0]
    assert re.fullmatch(r"a step: \S+ s where both overlap, \S+ s where nothing does", lines[-2])
    assert re.fullmatch(r"  computing \S+ s, exchanging \S+ s", lines[-1])
    assert lines[-3].startswith(
        "these are at most: they count config.data.vocab_size=2048 tokens, and a bpe of a small"
    )


def test_a_plan_of_a_tokenizer_of_a_known_size_is_exact(entry, capsys):
    small = ["--config.model.ffn=mlp", "--config.model.num_experts=0", "--config.data.tokenizer=bytes"]
    assert entry("train").run("--plan", "--config=configs/lm.py:tiny", *small) == 0
    assert "at most" not in capsys.readouterr().out


def run_program(text, **environment):
    """(exit code, standard output, standard error) of a Python program."""
    command, environment = [sys.executable, "-c", text], os.environ | environment
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr


def test_help_is_there_at_once_and_a_success():
    program = "import runpy, sys; sys.modules['jax'] = None; sys.argv.append('--help'); "
    code, output, errors = run_program(program + "runpy.run_module('experiments.train', None, '__main__', True)")
    assert (code, errors) == (0, "")
    assert output.startswith("Trains a language model: ")


def test_what_the_standard_output_has_no_letters_for_is_replaced():
    program = "from experiments import command_line\ncommand_line.run(lambda: print('ä\\ufffd—b'))"
    assert run_program(program, PYTHONIOENCODING="ascii") == (0, "???b\n", "")


def test_an_interrupt_that_a_callback_swallows_ends_the_program():
    program = """
import gc, os, signal
from experiments import command_line

def interrupt(phase, info):
    os.kill(os.getpid(), signal.SIGINT)
    for _ in range(1000):
        pass

def main():
    print("begins")
    gc.callbacks.append(interrupt)
    gc.collect()
    print("goes on")

command_line.run(main)
"""
    assert run_program(program) == (130, "begins\n", "")


@pytest.mark.parametrize("library", ["absl", "jax"])
def test_an_interrupt_that_comes_while_a_library_is_imported_ends_the_program_without_a_word(tmp_path, library):
    """Whatever the library makes of it; absl comes before the flags are read, and JAX after it."""
    (tmp_path / f"{library}.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n1 / 0\n")
    command = [sys.executable, "-m", "experiments.train", "--config=configs/lm.py:tiny", f"--workdir={tmp_path}/run"]
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def test_a_kept_program_that_was_cut_short_is_compiled_anew_without_a_word(tmp_path):
    """By a kill while it was written: JAX warns of it at every start, and a user can do nothing with that."""
    program = "from experiments import command_line\n"
    program += "command_line.run(lambda: print(__import__('jax').numpy.arange(3).sum()))"
    settings = {"JAX_COMPILATION_CACHE_DIR": str(tmp_path), "JAX_PLATFORMS": "cpu"}
    assert run_program(program, **settings) == (0, "3\n", "")
    kept = list(tmp_path.glob("*-cache"))
    assert kept
    for file in kept:
        file.write_bytes(file.read_bytes()[:9])
    assert run_program(program, **settings) == (0, "3\n", "")


@pytest.mark.parametrize("arguments", [["--help"], ["--source=synthetic", "--path=copy"]])
def test_a_reader_that_has_enough_ends_a_program_without_a_word(arguments):
    command = [sys.executable, "-m", "experiments.data", *arguments]
    program = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    program.stdout.close()
    assert program.stderr.read() == b""
    program.stderr.close()
    assert program.wait() == 128 + 13
