"""A conversation as bytes: saved by one runtime, gone on from by any other, with the same bits.

8 bytes "MKSTATE1", 32 of the model's SHA-256, then little endian: int64 position, int64 for each earlier token that the
short convolution reads, the last one first, and layer after layer the arrays of its mixer: of a retention float64 [H]
and float32 [H, K, V], of an attention the keys float32 [position, H, K] and values [position, H, V]. The logits of the
next token, float32 [W], come last.
"""

import numpy as np

_MAGIC = b"MKSTATE1"


def save(session, sha256: str) -> bytes:
    """The bytes of a session with a model of this hash."""
    parts = [np.int64([session.position]), session.previous, *_arrays(session)]
    return _MAGIC + bytes.fromhex(sha256) + b"".join(np.ascontiguousarray(part).tobytes() for part in parts)


def restore(session, sha256: str, content: bytes) -> None:
    """Puts saved bytes into a session. Raises: ValueError for those of another model, or too many positions."""
    if content[:8] != _MAGIC:
        raise ValueError("this is no saved conversation")
    if content[8:40] != bytes.fromhex(sha256):
        raise ValueError("this conversation was saved with another model")
    session.position = int.from_bytes(content[40:48], "little", signed=True)
    if not 0 <= session.position <= (1 << 62 if session.model.is_retention else session.max_length):
        raise ValueError(f"this conversation has {session.position} positions, more than {session.max_length}")
    start = 48
    for array in (session.previous, *_arrays(session)):
        part = content[start : start + array.nbytes]
        if len(part) != array.nbytes:
            raise ValueError("this saved conversation is cut short")
        array[...] = np.frombuffer(part, array.dtype).reshape(array.shape)
        start += array.nbytes
    if start != len(content):
        raise ValueError("this saved conversation is longer than it should be")
    if any(not np.isfinite(array).all() for array in _arrays(session)):
        raise ValueError("this saved conversation has numbers that are not finite")


def _arrays(session):
    for arrays in session.layers:
        for array in arrays:
            yield array if session.model.is_retention else array[: session.position]
    yield session.logits
