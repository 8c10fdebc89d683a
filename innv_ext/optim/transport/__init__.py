"""Transport problems of rate grids."""
