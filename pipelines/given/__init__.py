"""Vectors that users made elsewhere: files opened, rows judged, and what is new stored in the table of vectors."""
