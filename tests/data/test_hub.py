"""Datasets of the hub, without a network: what is asked of its library, and what becomes of its errors."""

import socket
import sys

import pytest

from configs import lm
from mixkabrn_jax.data import hub, sources
from mixkabrn_jax.data.config import DataConfig
from mixkabrn_jax.data.documents import Skipped

huggingface_hub = pytest.importorskip("huggingface_hub")


@pytest.fixture
def snapshot(tmp_path, monkeypatch):
    """A folder that stands for what is downloaded, as its library keeps it; calls are remembered."""
    blobs, folder = tmp_path / "blobs", tmp_path / "snapshots" / "0123"
    (folder / "data").mkdir(parents=True)
    blobs.mkdir()
    (blobs / "1").write_bytes(b"of the hub")
    (folder / "data" / "x.txt").symlink_to(blobs / "1")
    (folder / ".gitattributes").write_text("x")
    calls = []

    def download(name, **options):
        calls.append((name, options))
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    return folder, calls


def config(path):
    return DataConfig(**{**lm.get_config().data.to_dict(), "source": "text", "path": path})


def test_a_dataset_is_read_from_where_its_library_keeps_it(snapshot):
    folder, calls = snapshot
    assert hub.download("hub:owner/name") == folder
    assert hub.download("hub:owner/name/data/") == folder / "data"
    assert hub.download("hub:owner/name/data/x.txt") == folder / "data" / "x.txt"
    dataset = {"repo_type": "dataset"}
    assert calls == [
        ("owner/name", dataset | {"allow_patterns": None}),
        ("owner/name", dataset | {"allow_patterns": ["data", "data/*"]}),
        ("owner/name", dataset | {"allow_patterns": ["data/x.txt", "data/x.txt/*"]}),
    ]
    skipped = Skipped()
    [document] = sources.read(config("hub:owner/name"), "train", skipped)
    assert (document.content, document.domain, document.id) == (b"of the hub", "data", "data/x.txt")
    assert skipped.counts == {"hidden": 1}


def test_what_a_dataset_has_not_is_named(snapshot):
    del snapshot
    with pytest.raises(FileNotFoundError, match="'hub:owner/name/other': the dataset has nothing of the name 'other'"):
        hub.download("hub:owner/name/other")


@pytest.mark.parametrize("name", ["hub:", "hub:m2d2", "hub:owner/", "hub:owner//x", "hub:owner/name/../.."])
def test_a_name_of_another_form_is_refused_before_anything_is_asked_for(snapshot, name):
    with pytest.raises(ValueError, match="hub:owner/name is needed, such as hub:machelreid/m2d2"):
        hub.download(name)
    assert not snapshot[1]


@pytest.mark.parametrize("error", [OSError, ValueError, "EntryNotFoundError", "HFValidationError", "transport"])
def test_errors_of_the_library_are_one_sentence(monkeypatch, error):
    kind = error
    if error == "transport":
        kind = huggingface_hub.errors.HfHubHTTPError.__bases__[0]
    elif isinstance(error, str):
        kind = getattr(huggingface_hub.errors, error)

    def fail(*_, **__):
        raise kind("nothing there\nlook elsewhere")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(
        OSError, match=r"^'hub:owner/name' cannot be had from the hub, .*: nothing there look elsewhere"
    ):
        hub.download("hub:owner/name")


def test_without_its_library_a_sentence_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ImportError, match="'hub:owner/name' is read by huggingface_hub: pip install huggingface_hub"):
        hub.download("hub:owner/name")


def test_the_card_of_a_dataset_is_no_text_of_it(monkeypatch, tmp_path):
    for name in ("a.txt", "README.md", "LICENSE", "sub/README.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    monkeypatch.setattr(hub, "download", lambda _: tmp_path)
    for path, names in (("hub:me/texts", ["a.txt", "sub/README.md"]), (str(tmp_path), None)):
        config = DataConfig(**{**lm.get_config().data.to_dict(), "source": "text", "path": path})
        found = [document.id for document in sources.read(config, None, Skipped())]
        assert found == (names or ["LICENSE", "README.md", "a.txt", "sub/README.md"])


def test_nothing_but_a_hub_id_goes_to_the_network(monkeypatch, tmp_path):
    def connect(*_, **__):
        raise OSError("the network")

    monkeypatch.setattr(socket.socket, "connect", connect)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", connect)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "owner" / "name").mkdir(parents=True)
    (tmp_path / "owner" / "name" / "x.txt").write_bytes(b"local")
    [document] = sources.read(config("owner/name"), "train", Skipped())
    assert document.content == b"local"
    with pytest.raises(FileNotFoundError, match=r"config\.data\.path='nobody/nothing' does not exist"):
        list(sources.read(config("nobody/nothing"), "train", Skipped()))
    with pytest.raises(OSError, match="the network"):
        list(sources.read(config("hub:owner/name"), "train", Skipped()))
