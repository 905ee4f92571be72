"""Claims on their way: packed into one archive, read from a stranger's, put together with others."""
