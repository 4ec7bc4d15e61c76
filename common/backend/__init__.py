"""The interface between the live loop and a backend: protocol, child processes, memory."""
