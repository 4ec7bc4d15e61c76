"""Pictures as arrays: crop, resize, edges, smoothing over time, drawing, text inside a PNG."""
