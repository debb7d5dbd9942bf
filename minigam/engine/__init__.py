"""The engine: automatic differentiation of NumPy and CuPy arrays. It depends on no model and no text."""

from minigam.engine import compiled, cuda  # noqa: F401  importing registers the faster rules
