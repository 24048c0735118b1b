"""What runs when: Prefect flows and the `sidmill` command. No tensor maths here."""
