"""Networks for other programs: ONNX, torch.export, and folders that Hugging Face's libraries load."""
