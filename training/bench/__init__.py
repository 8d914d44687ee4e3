"""What training and its networks cost in time: `python -m training.bench`."""
