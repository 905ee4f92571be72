"""Does a claim hold: its record's figures, its images, its cell made again, and another try at it."""
