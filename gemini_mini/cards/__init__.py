"""A card per tokenizer: what it keeps of text, pictures and sound, in figures and to see and hear."""
