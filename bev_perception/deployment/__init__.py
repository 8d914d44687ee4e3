"""Another model into the running vehicle: check, shadow, switch, watch, back; and a journal of all of it. No ROS."""
