"""Gradients, averaged gradients, Grad-CAM, baselines."""
