"""A ray-cast town seen consistently by the six cameras, five radars and the LiDAR of a nuScenes-like rig."""
