"""What makes FreeRAD's training fast on a GPU. Scores and attacks never come here."""
