"""rosbag2 recordings, read without ROS as far as they can be read. This package knows nothing of the rest."""
