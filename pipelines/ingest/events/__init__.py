"""The log: columns, single rows where a cell leaves doubt, ids, and which events are admitted."""
