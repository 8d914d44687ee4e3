"""Offline training of the BEV perception student: data, models, export, evaluation."""
