"""Read-only views of a lake for people: status, differences, explanations and verification."""
