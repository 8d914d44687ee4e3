"""Messages of cameras, radars and odometry -> measurements, with every check of what they say. `intake` is the door."""
