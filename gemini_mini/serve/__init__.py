"""A local page to talk to a trained model: python -m gemini_mini.serve RUN."""
