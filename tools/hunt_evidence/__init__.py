"""What the bug hunts show: short trainings, and the pictures and tables made from them."""
