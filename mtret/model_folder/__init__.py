"""A model as it is deployed: its folder, its card, its golden vectors, and what servers need of it."""
