"""Where snapshots come from: a live socket, a recording, or a script (tests)."""
