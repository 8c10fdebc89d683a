"""Solvers over arrays, batched over independent problems; knows no model."""
