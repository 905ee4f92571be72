"""Many cells: in one process or in several, and going on after a kill."""
