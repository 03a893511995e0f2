"""The cockpit: a Textual application that draws snapshots and sends commands. It owns nothing."""
