"""Where and how sidmill runs: process settings, recipes, deployments, container and cluster files."""
