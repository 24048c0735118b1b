"""Reading a lake for people: status, differences, explanations and verification. Nothing is written."""
