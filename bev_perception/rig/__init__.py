"""Is this rig what the parameters say? What a recording or a live system shows, and the checks of it."""
