"""One module for each suite of evaluations; suite.py lists them."""
