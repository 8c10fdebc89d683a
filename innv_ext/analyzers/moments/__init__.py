"""Assumed density filtering: means and variances through a graph."""
