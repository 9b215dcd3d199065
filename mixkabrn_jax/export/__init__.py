"""A trained model in the forms that others open: ONNX graphs, a folder for the Hugging Face hub."""
