"""MixKABRN: retention, mixtures of B-spline KAN experts and ternary weights in one small language model.

Importing the package imports nothing else: name the room you need, as in `from mixkabrn_jax.ops import retention`.
"""

__version__ = "0.1.0"
