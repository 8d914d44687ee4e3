"""From a data set in nuScenes' format, real or synthetic, to samples and their targets."""
