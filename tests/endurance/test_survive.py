"""A small version of the endurance test; `python -m tests.endurance.survive --damage` is the whole of it."""

import pytest

from tests.endurance import survive


@pytest.mark.slow
def test_a_run_that_is_killed_twice_and_one_with_damaged_checkpoints_end_as_if_nothing_had_been(tmp_path):
    survival = survive.endure(tmp_path, processes=1, num_kills=2, seed=0, num_damaged=1, num_steps=60)
    assert survival.is_whole, "\n".join(survival.lines)
    assert len(survival.record["kills"]) == 2 + 1
    assert {case["way"] for case in survival.record["damage"]} == {"cut to half", "one bit flipped", "removed"}
    assert len(survival.record["warnings"]) == 2
