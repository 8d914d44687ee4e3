"""Detection losses: heatmaps and boxes, queries, box overlaps."""
