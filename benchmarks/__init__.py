"""What the project costs: time beside other implementations, and memory."""
