"""Networks for other programs: ONNX, torch.export, and folders in Hugging Face's layout."""
