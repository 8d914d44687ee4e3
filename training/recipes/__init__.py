"""What runs share: sensors and grids, camera networks by size, the published ways to distil."""
