"""Fitting what is usual, setting alarms, and measuring what they find."""
