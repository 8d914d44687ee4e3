"""Which frames to label next: what networks say of a pool, scores, samplers, and the loop around them."""
