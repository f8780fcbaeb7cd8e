"""What a run leaves behind: its folder, its log, and its lines in a terminal."""
