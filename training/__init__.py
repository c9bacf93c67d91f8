"""Training: networks and their steps, epochs, validation, the state on disk."""
