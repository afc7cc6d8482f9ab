"""Ground truth from real code: the only package that imports torch."""
