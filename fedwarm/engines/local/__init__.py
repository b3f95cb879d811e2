"""The local engine: worker processes on this machine, and the grid that hands them messages."""
