"""The command `fedwarm`: one file for each group of commands."""
