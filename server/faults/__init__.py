"""Faults that are provoked on a running stack."""
