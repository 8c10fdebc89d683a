"""Solvers, each ``init`` and ``update``."""
