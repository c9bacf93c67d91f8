"""Fast implementations of the metrics. Their plain definitions stand in `evaluation.definitions`."""
