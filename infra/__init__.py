"""Runtime environment of sidmill: process settings, recipes, deployments, container and cluster files."""
