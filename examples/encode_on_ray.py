"""Encodes a corpus by tasks on a Ray cluster, before it is trained on. From a clone of the repository:

    pip install ray
    python -m examples.encode_on_ray /shared/texts /shared/tokens 8

Both folders must be on a file system that all nodes share. The same command again makes what is missing; training with
config.data.path=/shared/texts and config.data.cache=/shared/tokens finds all of it there.
"""

import sys
from pathlib import Path

from configs import lm
from mixkabrn_jax.data import cache
from mixkabrn_jax.data.config import DataConfig
from mixkabrn_jax.data.splitting import Split


def encode(section: dict, shard: int, num_shards: int) -> list[str | None]:
    """One task: the blocks whose number leaves the rest `shard`, of each source of `config.data`.

    Returns: the folders of tokens that are complete; None of a source that other tasks are still at.
    """
    config = DataConfig(**section)
    splits = [Split(component) for _, component in config.components]
    tokenizer = cache.tokenizer(config, splits)  # made by the first task, the others wait for it
    folders = [cache.fill(split, tokenizer, shard, num_shards) for split in splits]
    return [folder and str(folder) for folder in folders]


def main(path: str, tokens: str, num_shards: str = "8") -> None:
    """One of the tasks ends last and finds all blocks there: its folders are printed."""
    import ray

    section = lm.get_config("tiny").data.to_dict()
    section |= {"path": str(Path(path).resolve()), "cache": str(Path(tokens).resolve())}
    ray.init(runtime_env={"working_dir": "."})  # this clone, for the nodes
    task = ray.remote(encode)
    found = ray.get([task.remote(section, shard, int(num_shards)) for shard in range(int(num_shards))])
    print(*(folders for folders in found if all(folders)))


if __name__ == "__main__":
    main(*sys.argv[1:])
