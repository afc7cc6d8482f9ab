"""Measured servers: tables in, predictions beside them, constants of engines out."""
