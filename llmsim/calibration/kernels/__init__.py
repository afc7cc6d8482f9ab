"""Constants of kernels and networks, fitted to measured tables."""
