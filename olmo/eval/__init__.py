"""Measuring a model: scorers and reports."""
