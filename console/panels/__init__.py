"""The parts of the picture, each a pure function from a view and a size to lines."""
