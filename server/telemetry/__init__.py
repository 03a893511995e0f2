"""From raw samples to one truthful Snapshot."""
