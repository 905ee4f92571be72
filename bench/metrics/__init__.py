"""Figures of merit: what they are, and how sure they are."""
