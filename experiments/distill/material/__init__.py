"""What the demo is trained on: photographs, drawn pictures, prompts, clips, teachers."""
