"""What sensors and network usually give, and how far they are from it."""
