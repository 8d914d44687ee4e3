"""The ROS 2 side: the lifecycle node, playing and recording bags, measuring. Modules import ROS where they use it."""
