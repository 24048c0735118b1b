"""Balanced assignment of a level's codes to items, where every code and every prefix has a capacity."""
