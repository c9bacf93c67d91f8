"""Fast implementations of the metrics. Their definitions: `evaluation.definitions`."""
