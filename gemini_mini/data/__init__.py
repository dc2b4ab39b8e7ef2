"""Rows of the stream: packing, storage, the staged mixture and the loader."""
