"""The HTML page of one run or of several, with its plots and tables."""
