"""Published checkpoints -> checkpoints of this package: a file for each family, plain tables of names."""
