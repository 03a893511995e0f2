"""One module an engine family: which metric names mean what."""
