"""What comes with weights that were trained elsewhere: their file, its names, and the input that they expect."""
