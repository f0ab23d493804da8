"""Wiring: what the command line does and a notebook calls."""
