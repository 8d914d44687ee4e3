"""Data for training: the synthetic world, data sets and their targets."""
