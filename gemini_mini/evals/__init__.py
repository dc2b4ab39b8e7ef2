"""Evaluations: what the model draws, names, hears and sees."""
