"""Knows Keras, knows no explanation method: tracing, rewriting and walking a model's graph."""
