"""The `sidmill` command."""
