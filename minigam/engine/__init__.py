"""The engine: automatic differentiation of NumPy and CuPy arrays. It does not know what a token is."""

from minigam.engine import cpu, cuda  # noqa: F401  importing registers the faster rules
