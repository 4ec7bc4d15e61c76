"""What every backend shares: checkpoints, conditioning, frames, loop. Knows no backend."""
