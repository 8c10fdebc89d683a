"""Methods that only call the model."""
