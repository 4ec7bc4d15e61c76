"""The one seam between the loop and what renders a frame: protocol, child processes, memory."""
