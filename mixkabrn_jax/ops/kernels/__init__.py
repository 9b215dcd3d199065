"""Accelerator kernels of some of the ops, in Pallas for Triton: the same functions of arrays, without the large middle.

Every public function takes `interpret`: True runs the same kernel as plain XLA operations, on any machine, which is
how the tests reach it without an accelerator. Compiled they need an NVIDIA GPU. A kernel is opaque to the partitioner:
under a mesh of several devices it belongs inside `jax.shard_map`.
"""
