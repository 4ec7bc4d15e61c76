"""The Core ML backend; built in a later step."""
