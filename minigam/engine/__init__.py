"""The engine: differentiates arrays, whichever library holds them. It has never heard of a token."""

from minigam.engine import cpu, cuda  # noqa: F401  importing registers the faster rules
