"""Pictures as arrays: crop, resize, edges, temporal smoothing, drawing, text inside a PNG."""
