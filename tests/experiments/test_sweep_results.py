"""Tables say what the trials' files say."""

import pytest

from experiments.sweeping import results, trials


@pytest.mark.parametrize(
    ("output", "exit_code", "error"),
    [
        ("step 1\nerror: config.x=3: no\n", 1, "config.x=3: no"),
        (
            "ValueError: a\n\nDuring handling:\n  File x\nlib.mod.XlaRuntimeError: b\n-----\nhint\n",
            1,
            "lib.mod.XlaRuntimeError: b",
        ),
        (
            'Traceback:\n  File "<frozen runpy>"\n    run()\nValueError: a\nE1121 thread\nRuntimeError: b\n',
            1,
            "ValueError: a",
        ),
        ("KeyboardInterrupt\n", 1, "KeyboardInterrupt"),
        ("ValueError: caught\nstep 2\n", -9, "killed by SIGKILL; last line: step 2"),
        ("stopped at step 3\n", 143, "exit code 143; last line: stopped at step 3"),
        ("", 0, "exit code 0"),
    ],
)
def test_the_error_of_a_process_is_the_one_that_ended_it(output, exit_code, error):
    assert results.find_error(output, exit_code) == error


def test_markdown_cells_keep_to_their_column():
    row = results.Row("a", "x=<b>|c", "failed", 1234, None, None, 3, None, 1.23456, 12345.6, "two\nlines")
    lines = results.markdown([row]).splitlines()
    assert len(lines) == 3
    assert len({len(line) for line in lines}) == 1
    assert [cell.strip() for cell in lines[2].split(" | ")] == [
        "| a",
        "x=\\<b>\\|c",
        "failed",
        "1,234",
        "",
        "",
        "3",
        "",
        "1.2346",
        "12,346",
        "two lines |",
    ]


def test_metrics_that_cannot_be_read_leave_the_trial_to_training(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('broken\n{"step": 6, "split": "validation"}\n')
    trial = trials.Trial("a", {}, 6, tmp_path, ())
    assert not results.is_complete(trial)
    assert results.read(trial).status == "pending"


def test_a_table_without_rows_has_its_columns(tmp_path):
    results.write(tmp_path, [], "command")
    assert (tmp_path / "results.csv").read_text().startswith("trial,overrides,status,")
    assert len((tmp_path / "results.md").read_text().splitlines()) == 4
