"""Search: the space of plans, its evaluation in columns, and the choice."""
