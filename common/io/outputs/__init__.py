"""Where a session is shown while it runs: a page's picture, NDI, Syphon, a camera, a stream."""
