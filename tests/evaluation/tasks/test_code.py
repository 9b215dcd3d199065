"""Programs of a scorer of given answers, run under guard; and pass@k beside all ways to choose."""

import itertools
import sys

import pytest

from mixkabrn_jax.data.documents import task
from mixkabrn_jax.evaluation import sandbox
from mixkabrn_jax.evaluation.tasks import code
from mixkabrn_jax.evaluation.tasks.options import Options
from tests.evaluation.tasks.scorer import Scorer

on_linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the guards are those of Linux")
TESTS = "def check(f):\n    assert f(2) == 4\n    assert f(-3) == 9\ncheck(square)\n"
SQUARE = task("def square(x):\n", "    return x * x\n", "humaneval", "0", tests=TESTS)
PROMPT = SQUARE.prompt
TWICE = task("def twice(x):\n", "    return x + x\n", "humaneval", "1", tests="assert twice(2) == 4")


def test_pass_at_k_is_the_share_of_choices_of_k_samples_with_a_right_one():
    for num_samples in range(1, 8):
        for num_right in range(num_samples + 1):
            samples = [index < num_right for index in range(num_samples)]
            for k in range(1, num_samples + 1):
                choices = list(itertools.combinations(samples, k))
                share = sum(map(any, choices)) / len(choices)
                assert code.pass_at_k(num_samples, num_right, k) == pytest.approx(share, abs=1e-15)
    assert code.pass_at_k(10_000, 1, 100) == pytest.approx(0.01)


@on_linux
def test_programs_pass_that_their_tests_pass():
    scorer = Scorer({PROMPT: b"    return x ** 2\n\ndef other(): broken(", TWICE.prompt: b"    return x * x + 1\n"})
    found = code.run(scorer, [SQUARE, TWICE], Options(allow_code=True))
    assert found.pop("target_bits_per_byte") > 0
    assert found == {"pass@1": 0.5, "num_samples": 1, "n": 2}


@on_linux
def test_a_problem_has_as_many_programs_as_are_asked_for():
    right, wrong = b"    return x * x", b"    return 4"
    scorer = Scorer({PROMPT: [wrong, right, b"    import sys; sys.exit(0)"], TWICE.prompt: wrong})
    kept = []
    how = {"allow_code": True, "num_samples": 3, "temperature": 0.8, "ks": (1, 3, 10)}
    found = code.run(scorer, [SQUARE, TWICE], Options(**how, keep=lambda *each: kept.append(each)))
    assert [each[0] for each in kept] == [SQUARE] * 3 + [TWICE] * 3
    assert [each[1] for each in kept[:2]] == [wrong.decode(), right.decode()]
    assert [each[2] for each in kept] == [False, True, False, True, True, True]
    assert scorer.asked == [PROMPT] * 3 + [TWICE.prompt] * 3
    assert (found["pass@1"], found["pass@3"]) == pytest.approx(((1 / 3 + 1) / 2, 1))
    assert "pass@10" not in found
    assert (found["num_samples"], found["n"]) == (3, 2)


@on_linux
@pytest.mark.parametrize(
    "completion",
    [
        b"    return True\nimport os; os._exit(0)",
        b"    return True\nimport sys; sys.exit()",
        b"    return True\nraise SystemExit(0)",
        b"    import os; os._exit(0)",
        b"    raise SystemExit",
        b"    return True\nprint('guarded'); quit = exit",
        b"    return open('/etc/passwd')",
        b"    return",
        b"",
        b"\xff\xfe",
        b"    while True: pass",
    ],
)
def test_tricks_are_no_solutions(completion, monkeypatch):
    run = sandbox.run
    monkeypatch.setattr(sandbox, "run", lambda program: run(program, sandbox.Limits(seconds=1)))
    assert not code.run_all([code.program(PROMPT, completion, TESTS)])[0].passed


def test_code_is_run_only_if_asked_for_and_nothing_is_asked_of_the_model_before(monkeypatch):
    scorer = Scorer({PROMPT: b""})
    for options, said in [
        (Options(), r"are run with allow_code=True \(--allow_code\) alone"),
        (Options(allow_code=True, num_samples=0), "num_samples=0: at least 1"),
        (Options(allow_code=True, num_samples=5), "num_samples=5 at temperature=0 are all the same"),
        (Options(allow_code=True, ks=(2, 3)), r"ks=\(2, 3\): one from 1 to num_samples=1"),
    ]:
        with pytest.raises(ValueError, match=said):
            code.run(scorer, [SQUARE], options)
    monkeypatch.setattr(sys, "platform", "win32")
    with pytest.raises(sandbox.UnguardedError, match="on Linux only"):
        code.run(scorer, [SQUARE], Options(allow_code=True))
    assert not scorer.asked


@on_linux
def test_a_problem_without_tests_is_named():
    with pytest.raises(ValueError, match="7: humaneval needs documents with tests"):
        code.run(Scorer({}), [task("p", "t", "", "7")], Options(allow_code=True))
