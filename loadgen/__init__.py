"""People, not threads: load that behaves, and measurement from the client's side."""
