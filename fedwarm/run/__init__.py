"""Running a federation: the command line, the engines, checkpoints and the report."""
