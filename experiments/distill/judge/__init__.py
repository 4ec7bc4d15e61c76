"""What a trained demo is judged by, and its card."""
