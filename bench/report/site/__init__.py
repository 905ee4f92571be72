"""The leaderboard as pages: a static folder made from records alone, which opens from a disk without a network."""
