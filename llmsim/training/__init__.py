"""Training: counts, memory and time of a step."""
