"""Running an exported student: one protocol, one module for each engine. Importing this package imports no engine."""
