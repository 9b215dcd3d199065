"""Every byte is a token: it needs no training, and there is nothing that it has no token for."""

import numpy as np

from mixkabrn_jax.data.tokenizers.tokenizer import Tokenizer


class Bytes(Tokenizer):
    """Tokens 0 to 255 are the bytes, 256 is the separator: any content has tokens, valid UTF-8 or not."""

    name = "bytes"

    def __init__(self):
        super().__init__([bytes([value]) for value in range(256)])

    def encode(self, content: bytes, name: str = "") -> np.ndarray:
        del name  # every byte has a token, so there is nothing to say about the text
        return np.frombuffer(content, np.uint8).astype(np.int32)

    def record(self) -> dict[str, str]:
        return {"name": self.name}
