"""Short scripts that print ratios measured in one run; results are kept in LOG.md."""
