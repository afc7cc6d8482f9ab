"""The shared vocabulary: numbers, units, formats, operators and the passes that count them."""
