"""What compression costs in loss."""
