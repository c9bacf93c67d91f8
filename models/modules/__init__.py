"""Leaf modules: they know nothing of Config."""
