"""What is measured and shown offline: bags read without ROS, the nuScenes metric, pictures, report, demo and bench.

Nothing here imports ROS or an inference engine of its own: messages are read with `rosbags`, and everything that needs
ROS runs as a process of `bev_perception.ros`. Install with `pip install .[evaluation]`.
"""
