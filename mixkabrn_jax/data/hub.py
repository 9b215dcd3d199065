"""Datasets of the Hugging Face hub, brought to this machine once."""

from pathlib import Path

PREFIX = "hub:"
CARDS = "README.md,LICENSE*,dataset_infos.json"
"""What stands beside the files of a dataset, as patterns: text too, and none of it."""


def download(name: str) -> Path:
    """The folder, or file, of a dataset: `hub:owner/name`, or `hub:owner/name/folder/in/it`; kept by its library.

    What is there already is read without the network. Files alone are brought, and no program of a dataset is run.

    Raises: ImportError where huggingface_hub is not installed; ValueError for another form of name; OSError where the
        dataset cannot be had.
    """
    owner, *rest = name.removeprefix(PREFIX).strip("/").split("/")
    if not owner or not rest or not all(rest) or ".." in rest:
        raise ValueError(f"{name!r}: {PREFIX}owner/name is needed, such as {PREFIX}machelreid/m2d2")
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError
    except ImportError as error:
        raise ImportError(f"{name!r} is read by huggingface_hub: pip install huggingface_hub") from error
    inside = "/".join(rest[1:])
    patterns = [inside, f"{inside}/*"] if inside else None
    try:
        folder = snapshot_download(f"{owner}/{rest[0]}", repo_type="dataset", allow_patterns=patterns)
    except (OSError, ValueError, EntryNotFoundError, *HfHubHTTPError.__bases__) as error:  # of what it speaks HTTP by
        message = " ".join(str(error).split())
        raise OSError(f"{name!r} cannot be had from the hub, and is not on this machine: {message}") from error
    root = Path(folder, inside)
    if not root.exists():
        raise FileNotFoundError(f"{name!r}: the dataset has nothing of the name {inside!r}")
    return root
