"""Feasible sets: oracles, projections, penalties."""
