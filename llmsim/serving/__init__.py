"""Inference: what a model keeps for each token and sequence, and what a decoding step costs."""
