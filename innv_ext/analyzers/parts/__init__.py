"""How x is divided."""
