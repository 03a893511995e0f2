"""Widgets that draw one part of a Snapshot each."""
