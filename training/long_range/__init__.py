"""3D labels beyond the range in which there are any, from 2D boxes: LR3D's implicit inverse function (Yang et al., CVPR
2024), taught on near objects, and the data set that it labels."""
