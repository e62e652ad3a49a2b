"""What 4-bit products cost in attention error and in videos."""
