"""The city: streets with crossing traffic, and many kinds of bodies and people."""
