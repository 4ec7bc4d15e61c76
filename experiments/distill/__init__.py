"""Train the demo checkpoint: photographs and ten OpenCV renderings in, a checkpoint in the
diffusers layout out.
"""
