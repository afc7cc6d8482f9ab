"""Ground truth from real code: the only room that imports torch."""
