"""The console shown to a class: one console in a pty, its output fanned out over websockets to browsers."""
