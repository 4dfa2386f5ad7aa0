"""The recipes that ship with the package: ``xtc compress --config=quickstart`` finds them by name."""
