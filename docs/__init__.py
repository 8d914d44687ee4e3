"""Pages for readers, and the few lines that draw their plots and tables: `python -m docs`."""
