"""Collision handling: an item whose SID is taken moves to a free SID, or gets an extra token."""
