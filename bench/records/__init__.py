"""What a cell leaves behind: its record, its scores, and where they were made."""
