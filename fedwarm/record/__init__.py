"""What a run leaves behind: its record, ledger, checkpoints and run folder, written and read."""
