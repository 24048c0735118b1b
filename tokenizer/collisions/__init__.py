"""Collisions: what happens to an item whose SID is taken. It is moved to a free SID, or gets an extra token."""
