"""From a drive to a better model in the running vehicle: the whole circle, one command after the other."""
