"""Faults, provoked for real: what the screen says, what becomes of every request, and what is left running.

Each test ends in rows of the ledger; `make faults` runs all of them and prints the ledger as a table.
"""
