"""Rate-Distortion Explanations."""
