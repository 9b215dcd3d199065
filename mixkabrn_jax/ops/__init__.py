"""Mathematics: pure functions of arrays. Modules here import jax only, and not each other."""
