"""Where frames come from: a camera, a film, an image, a test card."""
