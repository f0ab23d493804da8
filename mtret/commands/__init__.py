"""The commands: their flags, and what they call."""
