"""How much data a score needs, from what few data reached (Mahmood et al., CVPR 2022 and NeurIPS 2022)."""
