"""Scores of answers: pure functions of a text and a reference."""
