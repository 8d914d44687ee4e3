"""The ROS 2 side: conversions, the lifecycle node, playing and recording bags. Modules import ROS where they use it."""
