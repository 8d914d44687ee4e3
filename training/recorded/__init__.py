"""A recorded drive -> scenes of a data set in nuScenes' format: what the node would hear, as files and rows."""
