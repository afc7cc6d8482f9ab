"""Seconds: of an operator on a device, of a message on a network; and what is a fact of a software stack."""
