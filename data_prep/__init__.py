"""Raw files to documents: one builder per source, on a CPU, deterministic and resumable."""
