"""Scores of predicted masks: metrics, the evaluation of whole folders, and reports. No torch."""

from evaluation.measuring import GroundTruth, score_pair

__all__ = ['GroundTruth', 'score_pair']
