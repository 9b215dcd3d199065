"""Datasets of the Hugging Face hub, brought to this machine once."""

from pathlib import Path

PREFIX = "hub:"


def download(name: str) -> Path:
    """The folder with the files of a dataset, `hub:owner/name` or `hub:owner/name/folder/in/it`; kept by its library.

    Raises: ImportError where huggingface_hub is not installed; ValueError for another form; OSError where it cannot be
        had.
    """
    parts = name.removeprefix(PREFIX).strip("/").split("/")
    if len(parts) < 2:
        raise ValueError(f"{name!r}: hub:owner/name is needed, such as hub:machelreid/m2d2")
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise ImportError(f"{name!r} is read by huggingface_hub: pip install huggingface_hub") from error
    inside = "/".join(parts[2:])
    patterns = [inside, f"{inside}/*"] if inside else None
    try:
        folder = snapshot_download("/".join(parts[:2]), repo_type="dataset", allow_patterns=patterns)
    except OSError:
        raise
    except Exception as error:  # its own errors are of many kinds, for names, rights and networks
        raise OSError(f"{name!r} cannot be had from the hub: {error}") from error
    return Path(folder, inside)
