"""What is seen before a run begins."""

import pytest

from mixkabrn_jax.training import loop
from tests import toy


@pytest.mark.parametrize(
    ("where", "changes"),
    [
        ("texts/runs/x", {}),
        ("texts/x", {"data__include": "*.txt,*.json"}),
        ("texts/x", {"data__path": "", "data__mixture": "0.5*text:{texts},0.5*synthetic:copy"}),
    ],
)
def test_a_workdir_among_the_texts_that_are_read_is_refused(tmp_path, where, changes):
    """The same command again would read its own config as a text, and hold that against the run."""
    (tmp_path / "texts").mkdir()
    toy.write_text(tmp_path / "texts" / "a.txt")
    changes = {name: value.format(texts=tmp_path / "texts") for name, value in changes.items()}
    config = toy.experiment(tmp_path / "texts", **changes)
    with pytest.raises(ValueError, match=rf"{where} lies in config\.data\.path='\S+texts', and what is written there"):
        loop.prepare(config, tmp_path / where)
    assert [path.name for path in (tmp_path / "texts").iterdir()] == ["a.txt"]


@pytest.mark.parametrize(
    ("where", "changes"),
    [
        ("texts_of_runs/x", {}),
        ("texts/.runs/x", {}),
        ("texts/x", {"data__include": "*.txt"}),
        ("texts/x", {"data__exclude": "x/*"}),
    ],
)
def test_a_workdir_whose_files_are_no_texts_of_its_own_goes_on(tmp_path, where, changes):
    (tmp_path / "texts").mkdir()
    toy.write_text(tmp_path / "texts" / "a.txt")
    config = toy.experiment(tmp_path / "texts", data__cache=str(tmp_path / "cache"), **changes)
    for _ in range(2):
        loop.prepare(config, tmp_path / where)
