import json
import os
from pathlib import Path

import pytest

from mixkabrn_jax.runs import metrics
from mixkabrn_jax.runs.metrics import MetricsFile
from mixkabrn_jax.training import curve

VALUES = {"loss": 1.5, "bits_per_byte": 2.25, "tokens_per_second": 12345.6}


def written(path, steps):
    path.write_text("".join(json.dumps({"step": step, "split": "train", "loss": 1 / step}) + "\n" for step in steps))
    return path


def test_what_was_written_is_read(tmp_path):
    file = MetricsFile(tmp_path / "metrics.jsonl", 0)
    file.write(2, "train", {"loss": 0.1})
    assert metrics.read(tmp_path / "metrics.jsonl") == [{"step": 2, "split": "train", "loss": 0.1}]  # at once
    file.write(2, "validation", {"loss": 0.2})
    file.close()
    assert [record["split"] for record in metrics.read(tmp_path / "metrics.jsonl")] == ["train", "validation"]


def test_what_is_no_number_is_null_in_the_file_and_not_in_the_curve(tmp_path):
    file = MetricsFile(tmp_path / "metrics.jsonl", 0)
    file.write(2, "train", {"bits_per_byte": float("nan"), "grad_norm": float("inf"), "skipped": 2})
    file.write(4, "train", {"bits_per_byte": 2.5})
    file.close()
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert lines[0] == '{"step": 2, "split": "train", "bits_per_byte": null, "grad_norm": null, "skipped": 2}'
    curve.plot(metrics.read(tmp_path / "metrics.jsonl")[:1], tmp_path / "loss.png")
    curve.plot(metrics.read(tmp_path / "metrics.jsonl")[::-1], tmp_path / "loss.png")


def test_records_after_the_step_of_a_resumed_run_are_dropped(tmp_path):
    path = written(tmp_path / "metrics.jsonl", [2, 4, 6, 8])
    kept = path.read_text().splitlines()[:2]
    file = MetricsFile(path, 5)
    assert path.read_text().splitlines() == kept
    file.write(6, "train", {"loss": 0.0})
    file.close()
    assert [record["step"] for record in metrics.read(path)] == [2, 4, 6]
    assert [entry.name for entry in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_a_record_of_the_very_step_is_kept(tmp_path):
    path = written(tmp_path / "metrics.jsonl", [2, 4])
    MetricsFile(path, 4).close()
    assert len(metrics.read(path)) == 2


@pytest.mark.parametrize("torn", ['{"step": 6, "spl', '{"step": 6', "{"])
def test_a_torn_last_line_is_left_out(tmp_path, torn):
    path = written(tmp_path / "metrics.jsonl", [2, 4])
    path.write_text(path.read_text() + torn)
    assert [record["step"] for record in metrics.read(path)] == [2, 4]
    file = MetricsFile(path, 9)
    file.write(10, "train", {"loss": 0.0})
    file.close()
    assert [record["step"] for record in metrics.read(path)] == [2, 4, 10]


def test_a_torn_line_in_the_middle_is_named(tmp_path):
    path = written(tmp_path / "metrics.jsonl", [2])
    path.write_text('{"step"\n' + path.read_text())
    with pytest.raises(ValueError, match=r"metrics\.jsonl, line 1: not a JSON object"):
        metrics.read(path)


@pytest.mark.parametrize("line", ["3", "[]", '{"step": 1}'])
def test_a_line_that_is_no_record_is_named(tmp_path, line):
    path = written(tmp_path / "metrics.jsonl", [2])
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(ValueError, match=r"metrics\.jsonl, line 2: an object with step and split"):
        metrics.read(path)


def test_the_records_so_far_are_on_the_disk_when_a_checkpoint_needs_them(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(os, "fsync", lambda number: synced.append(os.readlink(f"/proc/self/fd/{number}")))
    file = MetricsFile(tmp_path / "metrics.jsonl", 0)
    file.write(4, "train", VALUES)
    file.sync()
    file.close()
    assert synced == [str(tmp_path / "metrics.jsonl")]


def test_a_record_for_which_the_disk_has_no_space_is_named_and_closing_does_not_try_again(tmp_path):
    file = MetricsFile(tmp_path / "metrics.jsonl", 0)
    file.close()
    with Path("/dev/full").open("ab", buffering=0) as file._file:
        message = r"No space left on device; the record of step 4 is not written.*metrics\.jsonl"
        with pytest.raises(OSError, match=message):
            file.write(4, "train", VALUES)
        file.close()


def test_a_file_that_is_deleted_while_a_run_goes_on_is_begun_anew_and_the_log_says_so(tmp_path, caplog):
    path = tmp_path / "metrics.jsonl"
    file = MetricsFile(path, 0)
    file.write(2, "train", VALUES)
    path.unlink()
    file.write(4, "train", VALUES)
    file.write(6, "train", VALUES)
    assert [record["step"] for record in metrics.read(path)] == [4, 6]
    assert [message.partition(": ")[0] for message in caplog.messages] == [f"{path} was deleted while the run went on"]
    assert file.records() == metrics.read(path)
    path.unlink()
    file.close()
    assert file.records() == []


def test_a_file_that_is_gone_when_a_run_goes_on_is_begun_anew_and_the_log_says_so(tmp_path, caplog):
    path = tmp_path / "metrics.jsonl"
    MetricsFile(path, 0).close()
    assert not caplog.messages
    path.unlink()
    MetricsFile(path, 4).close()
    assert caplog.messages == [f"{path} is missing: it begins anew, without the records up to step 4"]
