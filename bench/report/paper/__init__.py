"""The paper's reference numbers and the recipe of each of its tables."""
