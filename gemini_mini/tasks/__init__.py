"""One task for each stage of the work: what the loop trains."""
