"""Which channels a network can do without at the latency that is wanted, and the network without them."""
