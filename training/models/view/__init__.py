"""View transforms: from images to the BEV grid forward (lift, splat), backward (sample), and over time (warp)."""
