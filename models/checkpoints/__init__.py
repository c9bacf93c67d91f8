"""Checkpoints: the official names of weights, files, and the architecture worked out from keys."""
