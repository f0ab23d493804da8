"""What the folder of a sentence-transformers encoder says of itself, read strictly: no arrays, no models."""
