"""Seconds of the kernels and messages of layers, and how they overlap inside one forward or backward pass."""
