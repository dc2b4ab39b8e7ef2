"""What a training step needs on a TPU pod, from the real compiler and without a TPU."""
