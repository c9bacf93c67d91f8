"""What train.py is made of: processes, schedule, state on disk, log, the loop."""
