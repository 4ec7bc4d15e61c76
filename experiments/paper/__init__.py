"""The paper's systems, rebuilt."""
