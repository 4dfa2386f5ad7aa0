"""Recipes that vary one thing at a time."""
