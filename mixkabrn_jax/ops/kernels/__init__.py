"""Accelerator kernels of some of the ops, in Pallas for Triton: the same functions of arrays, without the large middle.

Compiled they need an NVIDIA GPU. Elsewhere they are interpreted: the same kernel as plain XLA operations, slowly, which
is how the tests reach it without an accelerator. Every public function takes `interpret` to have the one or the other
wherever it is; `blocks.launch` decides it. A kernel is opaque to the partitioner:
under a mesh of several devices it belongs inside `jax.shard_map`.
"""
