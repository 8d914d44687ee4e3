"""Data sets in nuScenes' format, written: the fixed vocabulary, rows, and files."""
