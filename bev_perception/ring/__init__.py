"""The last seconds of what the vehicle heard, kept in bounded memory, and written down when something is worth it."""
