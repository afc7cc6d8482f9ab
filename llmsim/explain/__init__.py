"""Explanations of one plan: where the time goes, its closed form, what would change it."""
