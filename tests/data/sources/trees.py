"""Small trees of files as the sets are published, the same in every packing, and what a source reads out of them."""

import io
import json
import tarfile
import zipfile

from mixkabrn_jax.data import sources
from mixkabrn_jax.data.config import DataConfig
from mixkabrn_jax.data.documents import Skipped

PACKINGS = ("folder", "tar", "tar.gz", "tar.xz", "zip")


def config(source, path, **changes):
    values = {
        "source": source,
        "path": str(path),
        "validation_path": "",
        "validation_fraction": 0.1,
        "include": "",
        "exclude": "",
        "text_column": "",
        "licenses": "",
        "on_damage": "skip",
        "loss_on": "all",
        "tokenizer": "bytes",
        "vocab_size": 512,
        "sequence_length": 16,
        "batch_size": 2,
        "cache": "",
        "num_threads": 0,
        "timeout_seconds": 0.0,
    }
    return DataConfig(**(values | changes))


def write(root, files):
    """Writes `{path below root: bytes, text, or what becomes JSON}`."""
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(as_bytes(content))
    return root


def as_bytes(content):
    if isinstance(content, bytes):
        return content
    return (content if isinstance(content, str) else json.dumps(content)).encode()


def lines(*values):
    """JSON Lines."""
    return "".join(json.dumps(value) + "\n" for value in values)


def parquet(*records):
    import pyarrow
    import pyarrow.parquet

    packed = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(list(records)), packed)
    return packed.getvalue()


def pack(where, packing, files):
    """The path of a folder or an archive, called `where`, of these files."""
    if packing == "folder":
        return write(where, files)
    path = where.with_name(f"{where.name}.{packing}")
    path.parent.mkdir(parents=True, exist_ok=True)
    if packing == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in files.items():
                archive.writestr(name, as_bytes(content))
        return path
    with tarfile.open(path, "w:" + packing.removeprefix("tar").removeprefix(".")) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo("./" + name)
            member.size = len(as_bytes(content))
            archive.addfile(member, io.BytesIO(as_bytes(content)))
    return path


def read(source, path, split=None, **changes):
    """(documents, what was left out)."""
    skipped = Skipped(changes.get("on_damage", "skip"))
    return list(sources.read(config(source, path, **changes), split, skipped)), skipped


def contents(documents):
    return [document.content.decode() for document in documents]
