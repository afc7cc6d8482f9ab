"""Layer kinds: one file each, each a short list of operators over named dimensions."""
