"""The three tokenizers, all trained here, and the bundle that turns documents into ids."""
