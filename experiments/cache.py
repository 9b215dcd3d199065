"""Encodes a corpus before it is trained on: python -m experiments.cache --config=configs/lm.py:tiny

Training does the same by itself when it needs to; this is for corpora that take long. Several processes that are
started on one cache share the work. The tasks of a Slurm array, or of Ray, may take a share each, of blocks by number:

    python -m experiments.cache --config=configs/lm.py:tiny --shard=$SLURM_ARRAY_TASK_ID --num_shards=8

What is there already is kept, once its hash is checked. One JSON line at the end says what is in the cache.
"""

import json
import sys

from absl import flags

from experiments import command_line

_CONFIG = command_line.define_config()
_SHARD = flags.DEFINE_integer("shard", 0, "of the blocks, those whose number leaves this rest", lower_bound=0)
_NUM_SHARDS = flags.DEFINE_integer("num_shards", 1, "how many processes share the blocks", lower_bound=1)
flags.register_multi_flags_validator(
    ["shard", "num_shards"],
    lambda given: given["shard"] < given["num_shards"],
    "--shard is 0 to --num_shards - 1",
)


def main():
    # Only here, so that a wrong flag is answered at once.
    from mixkabrn_jax.data import cache
    from mixkabrn_jax.data.splitting import Split
    from mixkabrn_jax.runs.config import build

    with command_line.user_errors():
        config = build(cache.DataConfig, _CONFIG.value.data.to_dict(), "config.data")
        splits = [Split(component) for _, component in config.components]
        tokenizer = cache.tokenizer(config, splits)
        sources = [_fill(cache, split, tokenizer, config) for split in splits]
    print(json.dumps({"tokenizer": tokenizer.fingerprint(), "vocab_size": tokenizer.vocab_size, "sources": sources}))
    return 0


def _fill(cache, split, tokenizer, config):
    """What is in the cache of one source."""
    name = split.config.path or split.config.family
    folder = cache.fill(split, tokenizer, _SHARD.value, _NUM_SHARDS.value)
    if folder is None:
        print(f"{name}: the blocks of shard {_SHARD.value} are made, others are not yet", file=sys.stderr)
        return {"source": name, "complete": False}
    about = {"source": name, "complete": True, "folder": str(folder)}
    for part, stream in cache.load(split, tokenizer)._asdict().items():
        counts = stream.domains
        documents, num_bytes, tokens = (sum(each[i] for each in counts.values()) for i in range(3))
        print(
            f"{name}, {part}: {documents:,} documents of {len(counts)} domains, {num_bytes:,} bytes in {tokens:,} "
            f"tokens of {config.tokenizer}, {num_bytes / max(tokens, 1):.2f} bytes each"
        )
        about[part] = {"documents": documents, "bytes": num_bytes, "tokens": tokens}
    return about


if __name__ == "__main__":
    command_line.run(main)
