"""What changes a running session: the window's keys; each input emits `Set`, `Step` or `Event`."""
