"""Balanced assignment: which items get which code of a level when every code and every prefix has a capacity."""
