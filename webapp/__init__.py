"""The web page behind app.py: its layout, its jobs, its files, and the gate before Gradio."""
