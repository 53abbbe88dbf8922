"""Scores of pictures: who is it, with honest intervals.

Pure functions on feature vectors; the network that makes the features is passed in or lives elsewhere.
May import errors, concept and linalg only."""
