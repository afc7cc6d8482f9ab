"""Calibration: measured runs in, fitted constants out."""
