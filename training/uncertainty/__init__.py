"""Fitting what detections are worth, and measuring whether it holds."""
