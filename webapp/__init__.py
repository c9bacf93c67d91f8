"""The page behind app.py: its files, what it makes of pictures and videos, the gate before it, and its look."""
