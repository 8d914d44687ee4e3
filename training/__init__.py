"""Offline training of the BEV perception student: data, models, export, evaluation."""

from bev_perception.missing import tell_missing_packages

tell_missing_packages()
