"""What every family is built on: the interface, the program, walks, saving."""
