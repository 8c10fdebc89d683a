"""Rewrites of single kinds of nodes: what one node stands for, and derivatives that TensorFlow has wrong."""
