"""What is left of a network's score when sensors fail, weather turns or the rig is not as it was calibrated."""
