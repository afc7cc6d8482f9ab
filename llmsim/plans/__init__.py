"""What can be planned: mesh, precision, optimizer, recompute, the training plan, and what makes one invalid."""
