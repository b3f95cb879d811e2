"""What is measured when training is done."""
