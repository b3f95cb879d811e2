"""What every room uses: arrays, seeds, files, text, progress. Nothing here knows a method or Flower."""
