"""Trained weights and other small files that tasks read through importlib.resources."""
