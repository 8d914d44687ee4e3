"""3D object detection in bird's-eye view from surround cameras and radars.

The runtime: numpy, OpenCV and one inference engine. It imports no torch and nothing of `training`; only
`bev_perception.ros` imports ROS 2.
"""

from bev_perception.missing import tell_missing_packages

__version__ = "0.1.0"

tell_missing_packages()
