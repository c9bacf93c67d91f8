"""Scores of predicted masks: metrics, the evaluation of whole folders, and reports. NumPy and OpenCV only, no torch."""
