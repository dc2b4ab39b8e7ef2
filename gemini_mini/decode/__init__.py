"""Grammar-constrained sampling with one cache through all switches of modality."""
