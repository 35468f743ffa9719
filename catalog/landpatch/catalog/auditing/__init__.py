"""Whether a dataset is what it says, and what its splits are worth."""
