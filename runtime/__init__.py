"""What all commands share: devices, processes and their ranks, signals, logs, memory."""
